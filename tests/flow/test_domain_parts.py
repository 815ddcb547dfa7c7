"""Pictures with two labels of their own, chip and void: YOLO in, a round, YOLO out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from angio.cli import main as casebook
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.masks import decode
from tests.flow.domains import need_tiny_base, run, stop_workers, take_in, train, write_conf

LABELS = {"name": "parts", "labels": [{"name": "chip", "code": 1}, {"name": "void", "code": 2}]}
COUNTS = {"train": 6, "val": 3, "test": 3}
SIDE_PX = 160


def write_set(folder: Path) -> Path:
    """Boards with a square chip and a round void in it, as polygons of shares of the picture."""
    rng = np.random.default_rng(4)
    for split, count in COUNTS.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            left, top = rng.integers(20, 50, 2)
            side = int(rng.integers(60, 80))
            middle, radius = np.array([left, top]) + side / 2, float(rng.integers(9, 15))
            turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
            hole = middle + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)
            chip = np.array([left, top]) + np.array([[0, 0], [side, 0], [side, side], [0, side]])
            ground = Image.fromarray(
                np.clip(rng.normal(90, 5, (SIDE_PX, SIDE_PX)), 0, 255).astype(np.uint8)
            )
            pen = ImageDraw.Draw(ground)
            pen.polygon([tuple(at) for at in chip.tolist()], fill=170)
            pen.polygon([tuple(at) for at in hole.tolist()], fill=40)
            name = f"board{number}"
            ground.save(folder / "images" / split / f"{name}.png")
            lines = [
                " ".join([str(code), *(f"{share:.5f}" for share in (shape / SIDE_PX).ravel())])
                for code, shape in ((0, chip), (1, hole))
            ]
            (folder / "labels" / split / f"{name}.txt").write_text("\n".join(lines) + "\n")
    places = {split: f"images/{split}" for split in COUNTS}
    settings = {**places, "names": {0: "chip", 1: "void"}, "nc": 2}
    (folder / "data.yaml").write_text(yaml.safe_dump(settings))
    return folder / "data.yaml"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    need_tiny_base()
    place = Home(tmp_path / "workspace")
    yield place
    stop_workers(place)


def areas(home: Home) -> list[tuple[str, str, int]]:
    """Split, label and size in px of every mask that came with a case."""
    catalogue = Catalogue(home)
    found = []
    for case in catalogue.cases(annotated=True):
        given = catalogue.expert_annotations(case.case_id)
        assert given is not None
        for entry in given.annotations:
            bitmap = decode(entry.mask)
            found.append((case.split.value, given.label_of(entry), int(bitmap.sum())))
    return sorted(found)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_folder_with_labels_of_its_own_walks_through_a_round(home: Home, tmp_path: Path) -> None:
    labels = tmp_path / "parts.yaml"
    labels.write_text(yaml.safe_dump(LABELS))
    given = write_set(tmp_path / "set")
    take_in(home, "yolo", given, "--labels", labels, "--ruled-clean")
    catalogue = Catalogue(home)
    for split in Split:
        assert sum(1 for _ in catalogue.cases(split=split)) == COUNTS[split.value]
    found = train(home, write_conf(tmp_path / "conf", labels), 1)
    names = {score.label for case in found.candidate.test.cases for score in case.segments}
    assert names == {"chip", "void"}
    out, again = tmp_path / "out", Home(tmp_path / "again")
    run(casebook, "export", "yolo", "--labels", labels, "--out", out, "--home", home.root)
    take_in(again, "yolo", out / "data.yaml", "--labels", labels, "--ruled-clean")
    first, second = areas(home), areas(again)
    assert [entry[:2] for entry in first] == [entry[:2] for entry in second]
    ratios = np.array([one[2] / other[2] for one, other in zip(first, second, strict=True)])
    assert np.abs(ratios - 1).max() < 0.05, "a polygon lost more than its rim"
