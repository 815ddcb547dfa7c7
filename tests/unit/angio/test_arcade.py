"""ARCADE: names, rounds and splits; on a copy of its layout, and on the real sample if there."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from angio.arcade import (
    CASS_OF_SYNTAX,
    NAMED,
    expert_masks,
    import_arcade,
    label_name,
    read_arcade,
)
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.errors import ConfigError, DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.masks import decode

CATEGORIES = {1: "1", 2: "2", 3: "16a", 4: "9a"}


def _picture(number: int) -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    return (100 + number + 40 * np.sin(x / 9) + 30 * np.cos(y / 7)).astype(np.uint8)


@pytest.fixture
def arcade(tmp_path: Path) -> Path:
    """Eight train and two val pictures, two segments each."""
    root = tmp_path / "arcade"
    for split, count in (("train", 8), ("val", 2)):
        folder = root / "syntax" / split
        (folder / "images").mkdir(parents=True)
        (folder / "annotations").mkdir()
        images, annotations = [], []
        for number in range(1, count + 1):
            Image.fromarray(_picture(number)).save(folder / "images" / f"{number}.png")
            images.append({"id": number, "width": 64, "height": 64, "file_name": f"{number}.png"})
            for category, left in ((1, 10), (1 + number % 4, 30)):
                ring = [left, 10, left + 6, 10, left + 6, 50, left, 50]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": category,
                     "segmentation": [ring], "area": 240, "bbox": [left, 10, 6, 40], "iscrowd": 0}
                )  # fmt: skip
        payload = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
        }
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(payload))
    return root


def test_every_category_has_a_label(arcade_labels: LabelSet) -> None:
    names = {label_name(category, arcade_labels) for category in (*CASS_OF_SYNTAX, *NAMED)}
    assert len(names) == len(CASS_OF_SYNTAX) + len(NAMED) == 26
    assert label_name("6", arcade_labels) == "proximal LAD"
    assert label_name("12a", arcade_labels) == "OM1"
    with pytest.raises(DataError, match="unknown"):
        label_name("17", arcade_labels)


def test_a_label_set_without_the_segment_is_refused(coronary: LabelSet) -> None:
    with pytest.raises(DataError, match="no CASS 11"):
        label_name("5", coronary)


def test_pictures_are_shared_out_for_a_walk_of_rounds(
    arcade: Path, tmp_path: Path, arcade_labels: LabelSet
) -> None:
    home = Home(tmp_path / "home")
    report = import_arcade(
        arcade, home, arcade_labels, bootstrap=3, val=2, split_map={"val": "test"}
    )
    assert (report.imported, report.annotated) == (10, 7)
    assert report.splits == {"test": 2, "train": 6, "val": 2}
    assert "by image" in report.notes[0]
    cases = list(Catalogue(home).cases())
    first = [case for case in cases if case.round == 1]
    later = [case for case in cases if case.split is Split.TRAIN and case.round is None]
    assert (len(first), len(later)) == (3, 3)
    assert all(
        case.case_id.startswith("arcade-syntax-val-") for case in cases if case.split is Split.TEST
    )
    catalogue = Catalogue(home)
    assert all(catalogue.expert_annotations(case.case_id) is None for case in later)


def test_masks_are_united_by_label_and_into_the_tree(
    arcade: Path, tmp_path: Path, arcade_labels: LabelSet
) -> None:
    home = Home(tmp_path / "home")
    import_arcade(arcade, home, arcade_labels, bootstrap=8, val=0, split_map={"val": "test"})
    truth = expert_masks(read_arcade(arcade), arcade_labels)
    catalogue = Catalogue(home)
    for case in catalogue.cases(annotated=True):
        annotations = catalogue.expert_annotations(case.case_id)
        assert annotations is not None
        found = {annotations.label_of(e): decode(e.mask) for e in annotations.annotations}
        assert found.keys() == truth[case.case_id].keys()
        for name, bitmap in found.items():
            np.testing.assert_array_equal(bitmap, truth[case.case_id][name])
        tree = found.pop("coronary artery")
        np.testing.assert_array_equal(tree, np.logical_or.reduce(list(found.values())))


def test_more_cases_than_there_are_is_refused(
    arcade: Path, tmp_path: Path, arcade_labels: LabelSet
) -> None:
    with pytest.raises(ConfigError, match="there are 8"):
        import_arcade(arcade, Home(tmp_path / "h"), arcade_labels, bootstrap=6, val=3)
    with pytest.raises(ConfigError, match="split-map"):
        import_arcade(
            arcade, Home(tmp_path / "h"), arcade_labels, bootstrap=1, val=1,
            split_map={"val": "holdout"},
        )  # fmt: skip


def test_a_missing_picture_does_not_stop_the_rest(
    arcade: Path, tmp_path: Path, arcade_labels: LabelSet
) -> None:
    (arcade / "syntax" / "train" / "images" / "3.png").unlink()
    (arcade / "syntax" / "train" / "images" / "4.png").write_bytes(b"torn")
    report = import_arcade(
        arcade, Home(tmp_path / "h"), arcade_labels, bootstrap=3, val=2, split_map={"val": "test"}
    )
    assert report.imported == 8
    assert sorted(problem.where for problem in report.problems) == ["train/3.png", "train/4.png"]


def test_another_folder_is_not_arcade(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give ARCADE's folder"):
        read_arcade(tmp_path)
    folder = tmp_path / "syntax" / "train" / "annotations"
    folder.mkdir(parents=True)
    (folder / "train.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"train\.json"):
        read_arcade(tmp_path)


def test_the_real_sample_imports_whole(
    arcade_dir: Path, tmp_path: Path, arcade_labels: LabelSet
) -> None:
    report = import_arcade(
        arcade_dir, Home(tmp_path / "h"), arcade_labels, bootstrap=50, val=25,
        split_map={"val": "test"}, dry_run=True,
    )  # fmt: skip
    assert (report.imported, report.annotated, report.problems) == (220, 115, ())
