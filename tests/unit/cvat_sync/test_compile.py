"""Pulled jobs become annotations; what cannot be used is named."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from casebook import masks
from casebook.annotations import Origin, read_annotations
from cvat_sync.compile import Compiled, compile_round
from cvat_sync.pulled import PulledJob, PulledNote, PulledShape, PulledTag
from cvat_sync.pushed import Pushed, PushedTask
from tests.fakes.cvat_round import HW, bar, make_round

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
MASK = tuple(float(number) for number in masks.to_cvat(bar(10)))


def shape(
    frame: int,
    points: tuple[float, ...] = MASK,
    *,
    label: str = "LAD",
    kind: str = "mask",
    source: str = "manual",
    **attributes: str,
) -> PulledShape:
    return PulledShape(
        shape_id=7,
        frame=frame,
        label=label,
        type=kind,
        points=points,
        source=source,
        score=0.4,
        attributes=attributes,
    )


def compiled(
    root: Path,
    *shapes: PulledShape,
    tags: tuple[PulledTag, ...] = (),
    notes: tuple[PulledNote, ...] = (),
    n_tracks: int = 0,
) -> Compiled:
    """A round of three frames in one completed job."""
    folder = make_round(root, 3)
    manifest = folder.manifest()
    names = tuple(case.at.file_name for case in manifest.cases)
    task = PushedTask(key="k", task_id=1, name="t", frames=names, masks=2)
    pushed = Pushed(
        round=2,
        url="http://cvat",
        project_id=1,
        project="p",
        manifest_sha256="0",
        tasks=(task,),
        at=WHEN,
    )
    job = PulledJob(
        job_id=5,
        task_id=1,
        start_frame=0,
        stop_frame=2,
        annotator="annotator-3",
        created=WHEN,
        updated=WHEN,
        shapes=shapes,
        tags=tags,
        notes=notes,
        n_tracks=n_tracks,
    )
    proposals = read_annotations(folder.file("proposals.coco.json"))
    return compile_round(manifest, pushed, proposals, [job], dict.fromkeys(names, HW))


def test_an_untouched_reviewed_proposal_is_kept_as_the_models(tmp_path: Path) -> None:
    result = compiled(tmp_path, shape(0), shape(1))
    (kept, _) = result.annotations.annotations
    assert kept.origin is Origin.MODEL_REVIEWED
    assert (kept.model_id, kept.score, kept.annotator) == ("round-01-abc", 0.87, "annotator-3")
    assert [image.status for image in result.annotations.images] == ["ok", "ok", "ok"]


def test_what_a_detector_drew_and_a_person_let_stand_is_the_models(tmp_path: Path) -> None:
    drawn = shape(2, source="auto", model_id="round-01-xyz", confidence="40")
    result = compiled(tmp_path, shape(0), shape(1), drawn)
    added = result.annotations.annotations[-1]
    assert (added.origin, added.model_id, added.score) == (
        Origin.MODEL_REVIEWED,
        "round-01-xyz",
        0.4,
    )
    assert result.corrections.count("added") == 1


def test_measurements_travel_as_attributes_and_the_confidence_does_not(tmp_path: Path) -> None:
    result = compiled(tmp_path, shape(2, stenosis_pct="57.3", confidence="12"))
    assert result.annotations.annotations[0].attributes == {"stenosis_pct": "57.3"}


def test_a_polygon_is_a_mask(tmp_path: Path) -> None:
    square = (2.0, 2.0, 9.0, 2.0, 9.0, 9.0, 2.0, 9.0)
    result = compiled(tmp_path, shape(2, square, kind="polygon"))
    assert result.refused == ()
    assert result.annotations.annotations[0].mask.area_px == 64


def test_notes_and_reasons_come_along(tmp_path: Path) -> None:
    result = compiled(
        tmp_path,
        tags=(PulledTag(frame=1, label="rejected", attributes={}),),
        notes=(PulledNote(frame=1, text="too dark"),),
    )
    image = result.annotations.images[1]
    assert (image.status, image.reason, image.notes) == (
        "rejected",
        "no reason given",
        ("too dark",),
    )


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        pytest.param(shape(9), "frame 9 is not in the job", id="frame outside the job"),
        pytest.param(shape(2, kind="rectangle"), "a rectangle is not a mask", id="rectangle"),
        pytest.param(shape(2, (1.0, 2.0, 3.0), kind="polygon"), "pairs", id="odd polygon"),
        pytest.param(shape(2, label=""), "label '' is not in label set", id="unknown label"),
        pytest.param(shape(2, ()), "mask has 0 numbers", id="not finite"),
        pytest.param(shape(2, (9.0, 0.0, 0.0, 2.0, 2.0)), "empty", id="nothing set"),
        pytest.param(shape(2, (1.0, 1.0, 0.0, 0.0, 2.0, 2.0)), "add up", id="runs too short"),
        pytest.param(shape(2, (0.0, 4.0, 47.0, 39.0, 48.0, 40.0)), "outside", id="box outside"),
    ],
)
def test_what_cannot_be_used_is_named_and_the_rest_stays(
    tmp_path: Path, bad: PulledShape, says: str
) -> None:
    result = compiled(tmp_path, shape(0), bad, shape(1))
    assert len(result.refused) == 1
    assert says in result.refused[0]
    assert "job 5" in result.refused[0]
    assert len(result.annotations.annotations) == 2


def test_tracks_are_reported(tmp_path: Path) -> None:
    assert compiled(tmp_path, n_tracks=2).refused == ("job 5: 2 tracks; masks are expected",)
