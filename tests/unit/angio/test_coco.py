"""COCO files: every form of mask, categories by label file, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as cocoapi

from angio.coco import import_coco
from angio.deident import read_relink
from angio.intake import ImportReport
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.masks import decode

LABELS = LabelSet(
    name="tools", labels=(Label(name="pump", aliases=("heart pump",)), Label(name="lead"))
)
HW = (40, 60)


def bar(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    bitmap = np.zeros(HW, dtype=np.uint8, order="F")
    bitmap[y1:y2, x1:x2] = 1
    return bitmap


def rle(bitmap: np.ndarray, *, compressed: bool) -> dict[str, Any]:
    """As COCO's own library writes it."""
    packed = cocoapi.encode(np.asfortranarray(bitmap))
    if compressed:
        return {"size": list(HW), "counts": packed["counts"].decode()}
    flat = bitmap.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(HW), "counts": [0, *runs] if flat[0] else runs}


def data_set(folder: Path, annotations: list[dict[str, Any]], **changes: Any) -> Path:
    """Two pictures and their file; the annotations are of the first."""
    (folder / "images").mkdir(parents=True)
    ramp = np.linspace(60, 120, HW[0] * HW[1]).reshape(HW).astype(np.uint8)
    for number in (1, 2):
        Image.fromarray(ramp + number).save(folder / "images" / f"{number}.png")
    payload = {
        "images": [
            {"id": n, "file_name": f"{n}.png", "height": HW[0], "width": HW[1], "license": 3}
            for n in (1, 2)
        ],
        "categories": [{"id": 7, "name": "Heart Pump"}, {"id": 9, "name": "lead"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 7, **one}
            for n, one in enumerate(annotations, start=1)
        ],
        **changes,
    }
    path = folder / "set.json"
    path.write_text(json.dumps(payload))
    return path


def taken(path: Path, tmp_path: Path, **options: Any) -> tuple[ImportReport, Catalogue]:
    home = Home(tmp_path / "home")
    return import_coco(path, home, LABELS, **options), Catalogue(home)


def test_every_form_of_mask_comes_in_as_the_same_pixels(tmp_path: Path) -> None:
    wanted = bar(10, 5, 30, 12)
    forms = [
        {"segmentation": [[10, 5, 30, 5, 30, 12, 10, 12]], "bbox": [10, 5, 20, 7]},
        {"segmentation": rle(wanted, compressed=True)},
        {"segmentation": rle(wanted, compressed=False), "iscrowd": 1},
        {"segmentation": [[10, 5, 20, 5, 20, 12, 10, 12], [20, 5, 30, 5, 30, 12, 20, 12]]},
    ]
    report, catalogue = taken(data_set(tmp_path / "set", forms), tmp_path, split=Split.TRAIN)
    assert (report.imported, report.annotated, report.problems) == (2, 1, ())
    assert any("1 pictures have no annotation" in note for note in report.notes)
    case = next(catalogue.cases(annotated=True))
    assert (case.source, case.split, case.spacing) == ("coco", Split.TRAIN, None)
    assert case.deid is not None
    assert "plain picture" in case.deid.method
    found = catalogue.expert_annotations(case.case_id)
    assert found is not None
    assert [found.label_of(one) for one in found.annotations] == ["pump"] * 4
    assert [one.attributes.get("crowd") for one in found.annotations] == [None, None, "1", None]
    for one in found.annotations:
        np.testing.assert_array_equal(decode(one.mask), wanted > 0)


def test_a_second_import_changes_nothing_and_the_files_can_be_found_again(tmp_path: Path) -> None:
    path = data_set(tmp_path / "set", [{"segmentation": [[10, 5, 30, 5, 30, 12]]}])
    taken(path, tmp_path)
    report, catalogue = taken(path, tmp_path)
    assert (report.imported, report.unchanged) == (0, 2)
    table = read_relink(Home(tmp_path / "home"))
    names = sorted(table[case.case_id].source_row for case in catalogue.cases())
    assert names == ["1.png", "2.png"]


def test_boxes_become_prompts_and_never_masks(tmp_path: Path) -> None:
    boxes = [{"bbox": [10, 5, 20, 7]}, {"bbox": [1, 1, 4, 4], "category_id": 9}]
    report, catalogue = taken(data_set(tmp_path / "set", boxes), tmp_path)
    assert (report.imported, report.annotated) == (3, 0)
    prompted = {case.segment: case.lesion_box_xyxy for case in catalogue.cases()}
    assert prompted == {"pump": (10, 5, 30, 12), "lead": (1, 1, 5, 5), None: None}


def test_unknown_categories_are_refused_all_at_once_and_may_be_skipped(tmp_path: Path) -> None:
    categories = [{"id": n, "name": name} for n, name in ((7, "pump"), (8, "cat"), (9, "dog"))]
    path = data_set(
        tmp_path / "set", [{"segmentation": [[10, 5, 30, 5, 30, 12]], "category_id": 8}],
        categories=categories,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"'cat', 'dog'.*--skip"):
        taken(path, tmp_path)
    assert not (tmp_path / "home" / "cases").exists()
    report, _ = taken(path, tmp_path, skip=("cat", "dog"))
    assert (report.imported, report.annotated) == (2, 0)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "run lengths of"),
        ({"segmentation": {"size": [40, 60], "counts": [2399]}}, "2399"),
        ({"segmentation": {"size": [40, 60], "counts": "0\u00ff"}}, "mask"),
        ({"segmentation": [[10, 5, 130, 5, 30, 12]]}, "leaves its picture"),
        ({"segmentation": [[10, 5, 30, 5, 30]]}, "5 numbers"),
        ({"segmentation": [[10, 5, 30, 5, 30, 12]], "bbox": [40, 20, 5, 5]}, "bbox"),
        ({"segmentation": [[1, 1, 1, 1, 1, 1]]}, "no pixel"),
        ({"segmentation": [[10, "5", 30, 5, 30, 12]]}, "segmentation unusable"),
        ({"segmentation": [[10, 5, 30, 5, 30, 12]], "iscrowd": 2}, "iscrowd unusable"),
        ({"segmentation": [[10, 5, 30, 5, 30, 12]], "category_id": 4}, "category 4"),
        ({"bbox": [10, 5, 200, 5]}, "outside the picture"),
        ({}, "neither segmentation nor bbox"),
    ],
    ids=["turned", "short", "text", "outside", "odd", "bbox", "empty", "word", "crowd", "category",
         "box", "nothing"],
)  # fmt: skip
def test_a_damaged_annotation_leaves_out_its_picture_only(
    annotation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    report, _ = taken(data_set(tmp_path / "set", [annotation]), tmp_path)
    assert report.imported == 1
    assert [message in problem.message for problem in report.problems] == [True]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file_name": "../set.json"}, "leaves the data set"),
        ({"file_name": "/etc/passwd"}, "leaves the data set"),
        ({"file_name": "C:\\x.png"}, "leaves the data set"),
        ({"file_name": "images/\u0000"}, "leaves the data set"),
        ({"file_name": "gone.png"}, "not there"),
        ({"height": 41}, "its entry says"),
        ({"height": -1}, "height unusable"),
        ({"id": 2}, "twice"),
    ],
)
def test_a_damaged_image_entry_is_reported(
    entry: dict[str, Any], message: str, tmp_path: Path
) -> None:
    images = [
        {"id": 1, "file_name": "1.png", "height": HW[0], "width": HW[1], **entry},
        {"id": 2, "file_name": "2.png", "height": HW[0], "width": HW[1]},
    ]
    report, _ = taken(data_set(tmp_path / "set", [], images=images), tmp_path)
    assert message in report.problems[0].message


def test_annotations_of_no_image_are_counted(tmp_path: Path) -> None:
    path = data_set(tmp_path / "set", [{"image_id": 5, "segmentation": [[1, 1, 5, 1, 5, 5]]}])
    report, _ = taken(path, tmp_path)
    assert [problem.message for problem in report.problems] == [
        "belongs to no image of the file; correct image_id"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "no object"),
        ('{"images": 3}', "annotations, categories, images"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1, "a": 2}', "twice"),
    ],
    ids=["list", "number", "deep", "nan", "key"],
)
def test_what_is_not_coco_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        taken(path, tmp_path)


def test_a_table_of_patients_makes_the_split_one_of_patients(tmp_path: Path) -> None:
    path = data_set(tmp_path / "set", [{"segmentation": [[10, 5, 30, 5, 30, 12]]}])
    table = tmp_path / "patients.csv"
    table.write_text("file,patient_id,split\n1.png,A-1,test\n2.png,A-1,\n")
    report, catalogue = taken(path, tmp_path, patients=table)
    assert "by patient" in report.notes[0]
    assert len({case.patient for case in catalogue.cases()}) == 1
    assert {case.split for case in catalogue.cases()} == {Split.TEST}
    table.write_text("file,patient_id\n1.png,A-1\n")
    report, _ = taken(path, tmp_path / "b", patients=table)
    assert "not in the table" in report.problems[0].message
    for text, message in (
        ("file,patient_id\n1.png,A\n1.png,B\n", "line 3"),
        ("file,patient_id,split\n1.png,A,test\n2.png,A,train\n", "two splits"),
        ("name,patient_id\n", "no column file"),
        ("file,patient_id\n", "no rows"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            taken(path, tmp_path / "c", patients=table)
