"""A round pushed as whole cines: the run in order, one job a case, what is drawn comes back."""

from pathlib import Path

import numpy as np
import pytest

from casebook import masks
from casebook.annotations import Origin, read_annotations
from casebook.catalogue import Catalogue, png_bytes
from casebook.corrections import Effort
from casebook.documents import read_document
from casebook.rounds import RoundFolder
from cvat_sync.gateway import CvatGateway
from cvat_sync.pushed import need_pushed
from cvat_sync.remote import RemoteAnnotations
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import complete, cvatsync, set_up, shape
from tests.fakes.cvat_round import HW, bar, make_round


@pytest.fixture
def access(standin_access: Access) -> Access:
    return standin_access


@pytest.fixture
def folder(tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    """Two cases with their neighbouring frames, one without, to be pushed as cines."""
    set_up(monkeypatch, access, tmp_path, "form: cines")
    found = make_round(tmp_path, 3)
    catalogue = Catalogue(found.home)
    for number in (0, 1):
        case = catalogue.get(f"case-{number:03d}")
        frames = {case.frame: catalogue.frame_path(case.ref).read_bytes()}
        for frame in (1, 2, 4):
            frames[frame] = png_bytes(np.full(HW, 30 + frame, dtype=np.uint8))
        catalogue.add(case.with_(stored_frames=(1, 2, 3, 4)), frames)
    return found


def test_cines_go_there_and_back(folder: RoundFolder, access: Access) -> None:
    planned = cvatsync(folder, "push", "--dry-run")
    assert "3 tasks, 9 frames" in planned.stdout
    assert cvatsync(folder, "push").exit_code == 0
    pushed = need_pushed(folder)
    assert [len(task.frames) for task in pushed.tasks] == [4, 4, 1]
    first = pushed.tasks[0]
    assert [name[-9:-4] for name in first.frames] == ["00001", "00002", "00003", "00004"]
    with CvatGateway(access) as gateway:
        assert [len(gateway.jobs(task.task_id)) for task in pushed.tasks] == [1, 1, 1]
        drawn = gateway.task_annotations(first.task_id)
        assert [one.frame for one in drawn.shapes] == [2], "the proposal is on the annotated frame"
        labels = {label.name: label.id for label in gateway.labels(pushed.project_id)}
        extra = shape(0, labels["RCA"], masks.to_cvat(bar(20)))
        gateway.replace_annotations(first.task_id, RemoteAnnotations((*drawn.shapes, extra)))
        complete(access, gateway, pushed)
    assert cvatsync(folder, "pull").exit_code == 0
    found = read_annotations(folder.file("annotations.coco.json"))
    told = {
        (image.case_id, image.frame): (image.status, [e.origin for e in found.of_image(image.id)])
        for image in found.images
    }
    assert told == {
        ("case-000", 3): ("ok", [Origin.MODEL_REVIEWED]),
        ("case-001", 3): ("ok", [Origin.MODEL_REVIEWED]),
        ("case-002", 3): ("ok", []),
        ("case-000", 1): ("corrected", [Origin.HUMAN]),
    }
    effort = read_document(folder.file("effort.json"), Effort)
    assert [job.cases for job in effort.jobs] == [1, 1, 1], "a cine is one case"


def test_a_frame_that_is_gone_stops_the_push(folder: RoundFolder) -> None:
    gone = Catalogue(folder.home).folder("case-001") / "00004.png"
    gone.unlink()
    result = cvatsync(folder, "push")
    assert (result.exit_code, result.stderr.count("Error")) == (3, 1)
    assert "case-001.f00004.png" in result.stderr
    assert not folder.has("pushed.json")


def test_cines_and_validation_frames_exclude_each_other(folder: RoundFolder) -> None:
    conf = folder.home.root / "conf" / "cvat.yaml"
    conf.write_text("form: cines\nvalidation: {mode: honeypots}\n")
    result = cvatsync(folder, "push")
    assert result.exit_code == 2
    assert "one job" in result.stderr
