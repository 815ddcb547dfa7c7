"""Comments, the second look and carried cines, typed as commands against the stand-in."""

import json
from pathlib import Path

import numpy as np
import pytest

from casebook import masks
from casebook.annotations import AnnotationSetBuilder, Origin, read_annotations, write_annotations
from casebook.cases import Case, FrameRef
from casebook.catalogue import Catalogue, png_bytes
from casebook.corrections import Corrections, MaskChange
from casebook.documents import write_document
from casebook.rounds import RoundFolder
from cvat_sync.errands import kept
from cvat_sync.gateway import CvatGateway
from cvat_sync.pushed import Pushed, need_pushed
from cvat_sync.remote import RemoteAnnotations
from cvat_sync.rest import Answer, listed
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import (
    call,
    complete,
    cvatsync,
    place_of,
    set_up,
    shape,
    with_shapes,
)
from tests.contract.cvat_servers import standin
from tests.fakes.cvat_round import HW, LABELS, bar, make_round, ref


class Said(Answer):
    """A comment in CVAT."""

    message: str


@pytest.fixture
def access(standin_access: Access) -> Access:
    return standin_access


@pytest.fixture
def folder(tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    """A round that is pushed."""
    settings = "frames_per_task: 2\nframes_per_job: 1\nquality: {measure: false}"
    set_up(monkeypatch, access, tmp_path, settings)
    found = make_round(tmp_path)
    assert cvatsync(found, "push").exit_code == 0
    return found


def draw(access: Access, folder: RoundFolder, number: int, *bitmaps: np.ndarray) -> None:
    """Let a person have drawn other LAD masks on a case's frame."""

    def change(frame: int, labels: dict[str, int]) -> RemoteAnnotations:
        points = [masks.to_cvat(bitmap) for bitmap in bitmaps]
        return RemoteAnnotations(tuple(shape(frame, labels["LAD"], one) for one in points))

    with CvatGateway(access) as gateway:
        with_shapes(gateway, need_pushed(folder), number, change)


def finish(access: Access, pushed: Pushed, keep_open: int = 0) -> None:
    with CvatGateway(access) as gateway:
        complete(access, gateway, pushed, keep_open)


def messages(access: Access) -> list[str]:
    found = call(access, "GET", "/api/comments?page_size=100")["results"]
    return [str(comment["message"]) for comment in found]


def test_findings_become_issues_once(folder: RoundFolder, access: Access) -> None:
    split = bar(10)
    split[:, 18:20] = False
    draw(access, folder, 0, split)
    draw(access, folder, 1, bar(12))
    draw(access, folder, 2)
    finish(access, need_pushed(folder), keep_open=1)
    before = len(messages(access))
    planned = cvatsync(folder, "comment", "--dry-run")
    assert "3 comments to post, 0 posted before" in planned.stdout
    assert "LAD is in 2 pieces (60 px, 52 px)" in planned.stdout
    assert "LAD agrees with the proposal of round-01-abc at IoU 0.33" in planned.stdout
    assert "proposed a LAD here that was deleted" in planned.stdout
    assert len(messages(access)) == before
    assert "3 comments posted" in cvatsync(folder, "comment").stderr
    assert len(messages(access)) == before + 3
    again = json.loads(cvatsync(folder, "comment", "--json").stdout)
    assert (again["comments"], again["known"]) == ([], 3)
    assert len(messages(access)) == before + 3
    task_id, frame = place_of(need_pushed(folder), 0)
    issues = call(access, "GET", f"/api/issues?task_id={task_id}")["results"]
    places = [(one["frame"], one["position"]) for one in issues]
    assert (frame, [5.0, 10.0, 34.0, 13.0]) in places


def rename(access: Access, pushed: Pushed, label: str, name: str) -> None:
    """What a person does on the project's page."""
    path = f"/api/labels?project_id={pushed.project_id}&page_size=100"
    number = next(one["id"] for one in call(access, "GET", path)["results"] if one["name"] == label)
    call(access, "PATCH", f"/api/labels/{number}", {"name": name})


def test_a_label_renamed_and_a_frame_deleted_in_cvat_are_no_deleted_proposals(
    folder: RoundFolder, access: Access
) -> None:
    pushed = need_pushed(folder)
    draw(access, folder, 1)
    task_id, frame = place_of(pushed, 1)
    call(access, "PATCH", f"/api/tasks/{task_id}/data/meta", {"deleted_frames": [frame]})
    finish(access, pushed)
    rename(access, pushed, "LAD", "left anterior")
    assert "0 comments to post" in cvatsync(folder, "comment", "--dry-run").stdout


def test_a_second_look_is_not_sent_to_a_project_of_others(
    folder: RoundFolder, access: Access
) -> None:
    pushed = need_pushed(folder)
    draw(access, folder, 0, bar(12))
    finish(access, pushed)
    assert cvatsync(folder, "pull").exit_code == 0
    for task in pushed.tasks:
        call(access, "PATCH", f"/api/tasks/{task.task_id}", {"bug_tracker": ""})
    refused = cvatsync(folder, "review")
    assert refused.exit_code == 3
    assert "holds no task of round 02; set ANGIOLOOP_CVAT_URL to the server" in refused.stderr
    assert f"it was pushed to ({pushed.url})" in refused.stderr
    with CvatGateway(access) as gateway:
        assert len(gateway.tasks(pushed.project_id)) == len(pushed.tasks)


def test_a_label_deleted_in_cvat_is_no_reason_to_comment_or_to_collect(
    folder: RoundFolder, access: Access
) -> None:
    pushed = need_pushed(folder)
    draw(access, folder, 0, bar(12))
    finish(access, pushed)
    assert cvatsync(folder, "pull").exit_code == 0
    assert cvatsync(folder, "review").exit_code == 0
    errand = kept(folder, "review")
    assert errand is not None
    assert errand.pushed is not None
    finish(access, errand.pushed)
    call(access, "DELETE", f"/api/labels/{pushed.labels['LAD']}")
    refused = cvatsync(folder, "review", "--collect")
    assert (refused.exit_code, refused.stderr.count("\n")) == (3, 1)
    assert "labels were deleted in CVAT since the push" in refused.stderr
    folder.file("annotations.coco.json").unlink()  # as before the pull
    refused = cvatsync(folder, "comment", "--dry-run")
    assert (refused.exit_code, refused.stdout) == (3, "")


def test_a_second_look_goes_there_and_back_though_its_label_is_renamed(
    folder: RoundFolder, access: Access
) -> None:
    draw(access, folder, 0, bar(12))
    finish(access, need_pushed(folder))
    rename(access, need_pushed(folder), "LAD", "left anterior")
    assert cvatsync(folder, "pull").exit_code == 0
    assert cvatsync(folder, "review").exit_code == 0
    errand = kept(folder, "review")
    assert errand is not None
    assert errand.pushed is not None
    finish(access, errand.pushed)
    assert "1 masks kept" in cvatsync(folder, "review", "--collect").stdout


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        pytest.param(["review", "--collect", "--dry-run"], "--dry-run", id="dry run"),
        pytest.param(["propagate", "--collect", "--case", "case-000"], "--case", id="one case"),
        pytest.param(["review", "--force"], "--force", id="force"),
        pytest.param(["propagate", "--allow-incomplete"], "--allow-incomplete", id="incomplete"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(
    folder: RoundFolder, typed: list[str], says: str
) -> None:
    result = cvatsync(folder, *typed)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{says} would be passed over" in result.stderr


def test_a_sealed_round_is_commented_from_its_files(folder: RoundFolder, access: Access) -> None:
    draw(access, folder, 1, bar(12))
    finish(access, need_pushed(folder))
    assert cvatsync(folder, "pull").exit_code == 0
    assert "1 comments to post" in cvatsync(folder, "comment", "--dry-run").stdout


def test_a_second_look_goes_there_and_back(folder: RoundFolder, access: Access) -> None:
    draw(access, folder, 0, bar(12))
    draw(access, folder, 1, bar(11))
    finish(access, need_pushed(folder))
    assert cvatsync(folder, "pull").exit_code == 0
    planned = cvatsync(folder, "review", "--dry-run")
    assert "1 tasks, 2 frames, 2 masks" in planned.stdout
    assert kept(folder, "review") is None
    sent = cvatsync(folder, "review")
    assert sent.exit_code == 0
    assert cvatsync(folder, "review").stdout == sent.stdout, "the second run made something"
    errand = kept(folder, "review")
    assert errand is not None
    assert errand.pushed is not None
    (task,) = errand.pushed.tasks
    assert task.frames == (ref(0).file_name, ref(1).file_name)
    with CvatGateway(access) as gateway:
        made = [one for one in gateway.tasks(errand.pushed.project_id) if one.key == task.key]
        assert len(made) == 1
        drawn = gateway.task_annotations(task.task_id)
        assert [one.source for one in drawn.shapes] == ["manual", "manual"]
        assert any("IoU 0.33 with the proposal" in text for text in messages(access))
        early = cvatsync(folder, "review", "--collect")
        assert early.exit_code == 6
        assert "1 of 1 jobs are not completed" in early.stderr
        label = {one.name: one.id for one in gateway.labels(errand.pushed.project_id)}["LAD"]
        others = tuple(one for one in drawn.shapes if one.frame != 0)
        better = shape(0, label, masks.to_cvat(bar(14)))
        gateway.replace_annotations(task.task_id, RemoteAnnotations((better, *others)))
    finish(access, errand.pushed)
    back = cvatsync(folder, "review", "--collect")
    assert "1 masks kept, 1 changed" in back.stdout
    after = read_annotations(folder.file("annotations.coco.json"))
    assert len(after.images) == 5
    by_name = {image.file_name: after.of_image(image.id) for image in after.images}
    (first,), (second,) = by_name[ref(0).file_name], by_name[ref(1).file_name]
    assert np.array_equal(masks.decode(first.mask), bar(14))
    assert np.array_equal(masks.decode(second.mask), bar(11))
    assert (first.origin, second.origin) == (Origin.HUMAN, Origin.HUMAN)
    folder.file("candidate.json").write_text("{}")
    late = cvatsync(folder, "review", "--collect")
    assert late.exit_code == 6
    assert "--force" in late.stderr
    assert cvatsync(folder, "review", "--collect", "--force").exit_code == 0


def test_a_task_whose_frames_were_changed_in_cvat_is_not_trusted(
    folder: RoundFolder, access: Access
) -> None:
    draw(access, folder, 0, bar(12))
    finish(access, need_pushed(folder))
    cvatsync(folder, "pull")
    cvatsync(folder, "review")
    errand = kept(folder, "review")
    assert errand is not None
    assert errand.pushed is not None
    call(access, "DELETE", f"/api/tasks/{errand.pushed.tasks[0].task_id}")
    gone = cvatsync(folder, "review", "--collect")
    assert gone.exit_code == 3
    assert "is gone from CVAT" in gone.stderr


def whole_cine(folder: RoundFolder, number: int) -> Case:
    """Let a case keep the frames around its annotated one."""
    catalogue = Catalogue(folder.home)
    case = catalogue.get(f"case-{number:03d}")
    frames = {case.frame: catalogue.frame_path(case.ref).read_bytes()}
    for frame in (2, 4):
        frames[frame] = png_bytes(np.full(HW, 30 + frame, dtype=np.uint8))
    changed = case.with_(stored_frames=(2, 3, 4))
    catalogue.add(changed, frames)
    return changed


def test_carried_masks_become_a_cine_and_come_back(folder: RoundFolder, access: Access) -> None:
    case = whole_cine(folder, 0)
    finish(access, need_pushed(folder))
    assert cvatsync(folder, "pull").exit_code == 0
    asked = cvatsync(folder, "propagate", "--dry-run")
    assert "would ask a worker to propagate" in asked.stdout
    builder = AnnotationSetBuilder(LABELS)
    for frame in (2, 4):
        image = builder.add_image(FrameRef(case_id=case.case_id, frame=frame), HW)
        mask = masks.encode(bar(8 + frame))
        builder.add_mask(image, "LAD", mask, Origin.TRACKED, model_id="round-01-abc", score=0.6)
    write_annotations(folder.file("tracked.coco.json"), builder.build())
    unknown = cvatsync(folder, "propagate", "--case", "case-004")
    assert unknown.exit_code == 6
    assert "no mask was carried through case-004; known are case-000" in unknown.stderr
    assert "1 tasks, 3 frames, 3 masks" in cvatsync(folder, "propagate", "--dry-run").stdout
    sent = cvatsync(folder, "propagate", "--case", "case-000")
    assert sent.exit_code == 0
    errand = kept(folder, "cines")
    assert errand is not None
    assert errand.pushed is not None
    (task,) = errand.pushed.tasks
    assert [name[-9:-4] for name in task.frames] == ["00002", "00003", "00004"]
    with CvatGateway(access) as gateway:
        drawn = gateway.task_annotations(task.task_id).shapes
        scores = {one.frame: (one.source, one.score) for one in drawn}
        assert (scores[0], scores[2]) == (("auto", 0.6), ("auto", 0.6))
        assert len(gateway.jobs(task.task_id)) == 1, "a cine is one job"
        labels = {one.name: one.id for one in gateway.labels(errand.pushed.project_id)}
        better = shape(0, labels["LAD"], masks.to_cvat(bar(20)))
        others = tuple(one for one in drawn if one.frame != 0)
        gateway.replace_annotations(task.task_id, RemoteAnnotations((better, *others)))
    finish(access, errand.pushed)
    assert cvatsync(folder, "propagate", "--collect").exit_code == 0
    after = read_annotations(folder.file("annotations.coco.json"))
    origins = {
        image.frame: entry.origin
        for image in after.images
        if image.case_id == case.case_id
        for entry in after.of_image(image.id)
    }
    assert origins == {2: Origin.HUMAN, 3: Origin.MODEL_REVIEWED, 4: Origin.TRACKED}
    assert len(after.images) == 7


def test_cines_are_added_to_those_sent_before(folder: RoundFolder, access: Access) -> None:
    builder = AnnotationSetBuilder(LABELS)
    for number in (0, 1):
        case = whole_cine(folder, number)
        image = builder.add_image(FrameRef(case_id=case.case_id, frame=2), HW)
        mask = masks.encode(bar(9))
        builder.add_mask(image, "LAD", mask, Origin.TRACKED, model_id="round-01-abc", score=0.6)
    finish(access, need_pushed(folder))
    assert cvatsync(folder, "pull").exit_code == 0
    write_annotations(folder.file("tracked.coco.json"), builder.build())
    assert cvatsync(folder, "propagate", "--case", "case-001").exit_code == 0
    first = kept(folder, "cines")
    assert first is not None
    assert cvatsync(folder, "propagate", "--case", "case-001").exit_code == 0
    assert kept(folder, "cines") == first, "the second run made something"
    assert cvatsync(folder, "propagate").exit_code == 0
    second = kept(folder, "cines")
    assert second is not None
    assert first.pushed is not None
    assert second.pushed is not None
    assert len(second.tasks) == 2
    assert second.pushed.tasks[0] == first.pushed.tasks[0], "what was there was made again"
    finish(access, second.pushed)
    back = cvatsync(folder, "propagate", "--collect")
    assert "4 masks kept, 0 changed" in back.stdout


@pytest.mark.parametrize("verb", ["review", "propagate"])
def test_what_was_not_sent_cannot_be_collected(folder: RoundFolder, verb: str) -> None:
    result = cvatsync(folder, verb, "--collect")
    assert (result.exit_code, result.stderr.count("\n")) == (6, 1)
    assert f"`cvatsync {verb} --round 2` first" in result.stderr


@pytest.mark.parametrize("verb", ["review", "propagate"])
def test_before_the_pull_there_is_no_second_piece_of_work(folder: RoundFolder, verb: str) -> None:
    result = cvatsync(folder, verb)
    assert (result.exit_code, result.stderr.count("\n")) == (6, 1)
    assert "cvatsync pull --round 2" in result.stderr


def test_a_round_without_changes_needs_no_second_look(folder: RoundFolder, access: Access) -> None:
    finish(access, need_pushed(folder))
    assert cvatsync(folder, "pull").exit_code == 0
    result = cvatsync(folder, "review")
    assert result.exit_code == 6
    assert "nothing to look at" in result.stderr


def test_lost_answers_post_and_make_nothing_twice(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request in six fails, half of those after their effect."""
    place = tmp_path_factory.mktemp("faulty")
    with standin(place, "--fault-rate", "0.16", "--fault-seed", "5") as faulty:
        set_up(monkeypatch, faulty, tmp_path, "quality: {measure: false}")
        folder = make_round(tmp_path)
        assert cvatsync(folder, "push").exit_code == 0
        builder = AnnotationSetBuilder(LABELS)
        changes = []
        for number in range(5):
            image = builder.add_image(ref(number), HW, status="corrected")
            builder.add_mask(image, "LAD", masks.encode(bar(12)), Origin.HUMAN)
            changes.append(
                MaskChange(at=ref(number), label="LAD", outcome="refined", iou=0.1 * number)
            )
        write_document(
            folder.file("corrections.json"), Corrections(round=2, changes=tuple(changes))
        )
        write_annotations(folder.file("annotations.coco.json"), builder.build())
        assert cvatsync(folder, "review").exit_code == 0
        errand = kept(folder, "review")
        assert errand is not None
        assert errand.pushed is not None
        with CvatGateway(faulty) as gateway:
            made = [
                (one.key, one.n_frames, len(gateway.task_annotations(one.id).shapes))
                for one in gateway.tasks(errand.pushed.project_id)
                if "review" in one.key
            ]
            found = listed(gateway, "comments", "/api/comments", Said)
        assert made == [(errand.tasks[0].key, 5, 5)]
        assert len(found) == 5
        assert len({one.message for one in found}) == 5
