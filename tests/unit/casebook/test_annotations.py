"""Annotation sets: COCO with provenance."""

import json
from pathlib import Path

import numpy as np
import pytest

from casebook import masks
from casebook.annotations import (
    AnnotationSet,
    AnnotationSetBuilder,
    Origin,
    read_annotations,
    write_annotations,
)
from casebook.cases import FrameRef
from casebook.corrections import Corrections, Effort, JobEffort, MaskChange
from casebook.errors import DataError, MaskError, StateError
from casebook.labels import Label, LabelSet

LABELS = LabelSet(name="two", labels=(Label(name="a", role="segment"), Label(name="b")))
REF = FrameRef(case_id="c1", frame=4)
BITMAP = np.zeros((6, 8), dtype=bool)
BITMAP[1:3, 2:5] = True


def built() -> AnnotationSet:
    builder = AnnotationSetBuilder(LABELS, {"made": "here"})
    image = builder.add_image(REF, (6, 8), status="ok", notes=("clear",))
    builder.add_mask(
        image,
        "b",
        masks.encode(BITMAP),
        Origin.MODEL,
        model_id="m1",
        score=0.7,
        prompt_source="case",
        annotator="ann-1",
        attributes={"mld": "1 px"},
    )
    builder.add_image(FrameRef(case_id="c2", frame=0), (6, 8), status="rejected", reason="dark")
    return builder.build()


def test_a_set_reads_back_from_disk_with_everything(tmp_path: Path) -> None:
    write_annotations(tmp_path / "set.json", built())
    found = read_annotations(tmp_path / "set.json")
    assert found == built()
    (entry,) = found.of_image(1)
    assert np.array_equal(masks.decode(entry.mask), BITMAP)
    assert found.label_of(entry) == "b"
    assert entry.bbox == (2.0, 1.0, 3.0, 2.0)
    assert entry.area == 6
    assert found.images[0].ref == REF
    assert found.of_image(2) == ()


def test_what_is_written_is_plain_coco() -> None:
    document = json.loads(built().model_dump_json())
    assert document["categories"][1] == {"id": 2, "name": "b", "supercategory": "object"}
    assert document["images"][0]["file_name"] == "c1.f00004.png"
    assert document["annotations"][0]["segmentation"]["size"] == [6, 8]
    assert document["schema"] == 1


def test_a_frame_enters_once_and_a_mask_is_not_empty() -> None:
    builder = AnnotationSetBuilder(LABELS)
    image = builder.add_image(REF, (6, 8))
    with pytest.raises(DataError, match="twice"):
        builder.add_image(REF, (6, 8))
    with pytest.raises(MaskError, match="is empty"):
        builder.add_mask(image, "a", masks.encode(np.zeros((6, 8), dtype=bool)), Origin.HUMAN)
    with pytest.raises(DataError, match="not in label set"):
        builder.add_mask(image, "c", masks.encode(BITMAP), Origin.HUMAN)


@pytest.mark.parametrize(
    ("field", "change", "reason"),
    [
        ("images", lambda entries: [*entries, entries[0]], "repeated"),
        ("images", lambda entries: entries[1:], "unknown image"),
        ("categories", lambda entries: entries[:1], "unknown category"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(field: str, change: object, reason: str) -> None:
    assert callable(change)
    document = json.loads(built().model_dump_json())
    document[field] = change(document[field])
    with pytest.raises(ValueError, match=reason):
        AnnotationSet.model_validate(document)


def test_an_annotation_of_another_set_has_no_label_here() -> None:
    (entry,) = built().of_image(1)
    with pytest.raises(DataError, match="unknown category"):
        AnnotationSet().label_of(entry)


def test_a_missing_set_is_a_missing_step(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        read_annotations(tmp_path / "gone.json")


def test_corrections_are_counted_and_effort_is_added_up() -> None:
    changes = tuple(
        MaskChange(at=REF, label="a", outcome=outcome) for outcome in ("accepted", "refined")
    )
    found = Corrections(round=2, changes=changes, rejected=(REF,))
    assert (found.count("accepted"), found.count("added")) == (1, 0)
    jobs = (JobEffort(job_id=1, cases=10, seconds=600.0), JobEffort(job_id=2, cases=2, seconds=0.0))
    effort = Effort(round=2, jobs=jobs, source="job dates")
    assert (effort.cases, effort.seconds) == (12, 600.0)
    assert effort.hours_saved == pytest.approx((12 * 300 - 600) / 3600)
