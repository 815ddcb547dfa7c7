"""What a round refuses, and what it says then."""

from pathlib import Path

import pytest

from casebook.annotations import AnnotationSetBuilder, Origin, read_annotations, write_annotations
from casebook.documents import write_document
from casebook.errors import DataError
from casebook.labels import Label
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import LABELS, SIDE_PX, make_conf, make_workspace
from trainer.requests import ask, fail, failure, pending
from trainer.tasks import run_step
from trainer.work import Work


def selected(tmp_path: Path) -> Work:
    work = Work(RoundFolder(make_workspace(tmp_path), 1), make_conf(tmp_path))
    run_step("select", work)
    return work


def test_a_label_the_round_does_not_know_is_named_with_its_frame(tmp_path: Path) -> None:
    work = selected(tmp_path)
    path = work.folder.file("annotations.coco.json")
    annotations = read_annotations(path)
    strange = LABELS.with_(labels=[*LABELS.labels, Label(name="stent")])
    builder = AnnotationSetBuilder(strange, {"round": "1"})
    image = annotations.images[0]
    image_id = builder.add_image(image.ref, (SIDE_PX, SIDE_PX), status="ok")
    builder.add_mask(image_id, "stent", annotations.of_image(image.id)[0].mask, Origin.HUMAN)
    write_annotations(path, builder.build())
    with pytest.raises(DataError, match=r"round 01.*'stent' is not in label set 'tubes'") as told:
        run_step("train", work)
    assert image.file_name in str(told.value)
    assert "pull" in str(told.value)


def test_a_class_nobody_drew_is_told_and_stops_nothing(tmp_path: Path) -> None:
    work = selected(tmp_path)
    manifest = work.folder.manifest()
    wider = LABELS.with_(labels=[*LABELS.labels, Label(name="stent")])
    write_document(work.folder.file("manifest.json"), manifest.with_(labels=wider.model_dump()))
    run_step("train", work)
    told = [event.message for event in work.folder.events()]
    assert "nobody drew stent so far: not learnt" in told
    assert work.folder.has("candidate.json")


@pytest.mark.parametrize(
    ("problem", "code", "part"),
    [
        pytest.param(OSError(28, "No space left on device", "x"), 74, "Make room", id="full disk"),
        pytest.param(OSError(13, "Permission denied", "x"), 74, "PermissionError", id="no access"),
        pytest.param(ZeroDivisionError("oh"), 1, "ZeroDivisionError: oh", id="a bug"),
        pytest.param(DataError("found, do this"), 3, "found, do this", id="ours"),
    ],
)
def test_a_failure_carries_its_message_and_code(
    tmp_path: Path, problem: Exception, code: int, part: str
) -> None:
    folder = RoundFolder(make_workspace(tmp_path), 1)
    ask(folder, ("train",), tmp_path, ())
    fail(folder, "train", problem)
    found = failure(folder)
    assert found is not None
    assert (found.exit_code, pending(folder)) == (code, None)
    assert part in found.message


def test_nobody_waits_for_a_step_whose_failure_cannot_be_written(tmp_path: Path) -> None:
    folder = RoundFolder(make_workspace(tmp_path), 1)
    ask(folder, ("train",), tmp_path, ())
    folder.file("failed.json").mkdir()  # whatever is written there is refused by the system
    fail(folder, "train", OSError(28, "No space left on device"))
    assert pending(folder) is None
