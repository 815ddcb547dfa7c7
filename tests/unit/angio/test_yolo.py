"""YOLO data sets in and out: the same pixels, boxes as prompts, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from angio.drawings import expert_drawings
from angio.image_folder import import_images
from angio.intake import ImportReport
from angio.yolo import import_yolo
from angio.yolo_export import write_yolo
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError, StateError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.masks import decode

LABELS = LabelSet(name="tools", labels=(Label(name="pump", code=1), Label(name="lead", code=2)))
HW = (40, 60)
SETTINGS: dict[str, Any] = {"train": "images/train", "names": {0: "pump", 1: "lead"}, "nc": 2}


def data_set(folder: Path, lines: str, **changes: Any) -> Path:
    (folder / "images" / "train").mkdir(parents=True)
    (folder / "labels" / "train").mkdir(parents=True)
    ramp = np.linspace(60, 120, HW[0] * HW[1]).reshape(HW).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "images" / "train" / "a.png")
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    (folder / "data.yaml").write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return folder


def taken(path: Path, tmp_path: Path) -> tuple[ImportReport, Catalogue]:
    home = Home(tmp_path / "home")
    return import_yolo(path, home, LABELS), Catalogue(home)


def test_polygons_become_masks(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set", "1 0.25 0.25 0.75 0.25 0.75 0.5 0.25 0.5\n")
    report, catalogue = taken(folder, tmp_path)
    assert (report.imported, report.annotated, report.problems) == (1, 1, ())
    case = next(catalogue.cases())
    assert (case.split, case.source) == (Split.TRAIN, "yolo")
    found = catalogue.expert_annotations(case.case_id)
    assert found is not None
    wanted = np.zeros(HW, dtype=bool)
    wanted[10:20, 15:45] = True
    np.testing.assert_array_equal(decode(found.annotations[0].mask), wanted)
    assert found.label_of(found.annotations[0]) == "lead"


def test_boxes_become_prompts_beside_the_masks(tmp_path: Path) -> None:
    lines = "0 0.5 0.5 0.5 0.25\n1 0.25 0.25 0.75 0.25 0.75 0.5\n0 0.1 0.1 0.1 0.1\n"
    report, catalogue = taken(data_set(tmp_path / "set", lines), tmp_path)
    assert (report.imported, report.annotated) == (3, 1)
    boxes = sorted(case.lesion_box_xyxy for case in catalogue.cases() if case.lesion_box_xyxy)
    assert boxes == [pytest.approx((3, 2, 9, 6)), pytest.approx((15, 15, 45, 25))]
    assert len({case.patient for case in catalogue.cases()}) == 1


def test_a_picture_without_lines_comes_in_bare(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set", "")
    (folder / "labels" / "train" / "a.txt").unlink()
    report, _ = taken(folder, tmp_path)
    assert (report.imported, report.annotated) == (1, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "class"),
        ("-1 0.5 0.5 0.1 0.1", "class"),
        ("0 0.5 0.5 0.1 wide", "numbers"),
        ("0 0.5 0.5 0.1 nan", "outside 0 to 1"),
        ("0 0.5 0.5 0.1 1.4", "outside 0 to 1"),
        ("0 0.9 0.5 0.4 0.1", "outside the picture"),
        ("0 0.5 0.5 0.1 0.1 0.93", "5 numbers"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.1 0.2", "7 numbers"),
        ("0 0.1 0.1 0.1 0.1 0.1 0.1", "holds no pixel"),
        ("0 0.5 0.5 0 0.1", "empty"),
    ],
)
def test_a_damaged_line_leaves_out_its_picture(line: str, message: str, tmp_path: Path) -> None:
    report, _ = taken(data_set(tmp_path / "set", line + "\n"), tmp_path)
    assert message in report.problems[0].message
    assert report.imported == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": {0: "pump", 2: "lead"}}, "gaps"),
        ({"names": ["pump", "cat"]}, "'cat'"),
        ({"names": []}, "no class"),
        ({"names": 4}, "no names"),
        ({"kpt_shape": [17, 3]}, "keypoints"),
        ({"train": "../../elsewhere"}, "leaves the data set"),
        ({"train": "/etc"}, "leaves the data set"),
        ({"train": "gone"}, "not there"),
        ({"train": 3}, "no folder"),
        ({"train": None}, "names no picture"),
        ({"val": "images/train"}, "another split"),
    ],
)
def test_a_damaged_data_yaml_is_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        taken(data_set(tmp_path / "set", "", **changes), tmp_path)


def test_data_yaml_must_be_there_and_be_yaml(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not there"):
        taken(tmp_path, tmp_path)
    for text in ("{", "[" * 5000, "a: b"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DataError, match="data\\.yaml"):
            taken(tmp_path, tmp_path)


def annotated(folder: Path, bitmaps: list[np.ndarray]) -> Catalogue:
    """A workspace with pictures whose masks are index files."""
    (folder / "in" / "images").mkdir(parents=True)
    (folder / "in" / "masks").mkdir()
    for number, bitmap in enumerate(bitmaps):
        ramp = np.linspace(60, 120, bitmap.size).reshape(bitmap.shape).astype(np.uint8)
        Image.fromarray(ramp + number).save(folder / "in" / "images" / f"{number}.png")
        Image.fromarray(bitmap.astype(np.uint8)).save(folder / "in" / "masks" / f"{number}.png")
    home = Home(folder / "first")
    report = import_images(folder / "in", home, LABELS, split=Split.TRAIN)
    assert report.problems == ()
    return Catalogue(home)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.9))
def test_masks_without_holes_come_back_pixel_by_pixel(
    seed: int, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    drawn = ndimage.binary_fill_holes(rng.random((17, 23)) < share)
    if not drawn.any():
        return
    folder = tmp_path_factory.mktemp("yolo")
    first = annotated(folder, [drawn])
    report = write_yolo(first, expert_drawings(first), LABELS, folder / "out")
    assert report.holes_filled == 0
    home = Home(folder / "second")
    assert import_yolo(folder / "out", home, LABELS).problems == ()
    second = Catalogue(home)
    case = next(second.cases())
    found = second.expert_annotations(case.case_id)
    assert found is not None
    together = np.logical_or.reduce([decode(one.mask) for one in found.annotations])
    np.testing.assert_array_equal(together, drawn)
    np.testing.assert_array_equal(
        second.frame(case.ref).pixels, first.frame(next(first.cases()).ref).pixels
    )


def test_holes_are_filled_and_counted_and_boxes_are_tight(tmp_path: Path) -> None:
    ring = np.zeros(HW, dtype=np.uint8)
    ring[10:20, 10:30] = 2
    ring[14:16, 14:20] = 0
    catalogue = annotated(tmp_path, [ring])
    report = write_yolo(catalogue, expert_drawings(catalogue), LABELS, tmp_path / "polygons")
    assert (report.holes_filled, report.lines, report.pictures) == (1, 1, {"train": 1})
    with pytest.raises(StateError, match="already"):
        write_yolo(catalogue, expert_drawings(catalogue), LABELS, tmp_path / "polygons")
    write_yolo(catalogue, expert_drawings(catalogue), LABELS, tmp_path / "boxes", boxes=True)
    report, boxed = taken(tmp_path / "boxes", tmp_path)
    assert report.problems == ()
    case = next(boxed.cases())
    assert case.segment == "lead"
    assert case.lesion_box_xyxy == pytest.approx((10, 10, 30, 20), abs=1e-4)


def test_nothing_drawn_writes_nothing(tmp_path: Path) -> None:
    catalogue = Catalogue(Home(tmp_path / "empty"))
    with pytest.raises(StateError, match="no case has masks"):
        write_yolo(catalogue, expert_drawings(catalogue), LABELS, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]
