"""What comes back from CVAT when people did what they do: boxes, deleted frames, other names."""

from collections.abc import Sequence

import pytest

from casebook import masks
from casebook.annotations import CocoRle, Origin, read_annotations
from casebook.boxes import ASKED, BoxMask, BoxMasks, DrawnBoxes
from casebook.documents import read_document, write_document
from casebook.errors import DataError, StateError
from casebook.rounds import RoundFolder
from cvat_sync.boxes import answered, drawn_boxes, give_back
from cvat_sync.gateway import CvatGateway
from cvat_sync.plan import PushPlan
from cvat_sync.pull import EARLIER, PullResult, changed_jobs, pull
from cvat_sync.pulled import PulledJob
from cvat_sync.pushed import Pushed
from cvat_sync.remote import RemoteAnnotations, RemoteLabel
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import (
    call,
    complete,
    place_of,
    planned,
    pull_it,
    push_it,
    shape,
    with_shapes,
)
from tests.fakes.cvat_round import bar, ref

BOX = [5, 24, 34, 29]


class Worker:
    """Answers rectangles with a bar inside, or with nothing."""

    def __init__(self, folder: RoundFolder, *, finds: bool = True) -> None:
        self._folder, self._finds = folder, finds
        self.asked = 0

    def __call__(self, name: str) -> None:
        self.asked += 1
        mask = masks.encode(bar(25))
        found = CocoRle(counts=masks.to_coco_rle(mask), size=mask.hw) if self._finds else None
        made = tuple(
            BoxMask(
                key=box.key,
                at=box.at,
                label=box.label,
                model_id="round-01-abc",
                score=0.9,
                segmentation=found,
            )
            for box in read_document(self._folder.file(ASKED), DrawnBoxes).boxes
        )
        write_document(self._folder.file(name), BoxMasks(masks=made))


def pull_boxes(
    folder: RoundFolder, pushed: Pushed, gateway: CvatGateway, worker: Worker
) -> PullResult:
    def to_masks(jobs: Sequence[PulledJob], labels: Sequence[RemoteLabel]) -> tuple[int, ...]:
        found = drawn_boxes(pushed, folder.manifest().labels, jobs)
        return give_back(gateway, found, answered(folder, found, worker), labels)

    return pull(folder, pushed, gateway, parallel=2, give_back=to_masks)


def draw_rectangle(gateway: CvatGateway, pushed: Pushed) -> None:
    with_shapes(
        gateway,
        pushed,
        4,
        lambda frame, labels: RemoteAnnotations(
            (shape(frame, labels["stenosis"], BOX, "rectangle"),)
        ),
    )


def test_a_rectangle_becomes_the_models_mask_and_a_person_confirms_it(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    draw_rectangle(gateway, pushed)
    complete(access, gateway, pushed)
    task_id, frame = place_of(pushed, 4)
    (job,) = [job for job in gateway.jobs(task_id) if job.start_frame == frame]
    worker = Worker(folder)
    with pytest.raises(StateError, match=rf"rectangles in jobs {job.id} became masks"):
        pull_boxes(folder, pushed, gateway, worker)
    (given,) = gateway.job_annotations(job.id).shapes
    assert (given.type, given.source, given.score) == ("mask", "semi-auto", pytest.approx(0.9))
    (opened,) = [one for one in gateway.jobs(task_id) if one.id == job.id]
    assert (opened.stage, opened.state) == ("annotation", "in progress")
    complete(access, gateway, pushed)
    pull_boxes(folder, pushed, gateway, worker)
    assert worker.asked == 1
    sealed = read_annotations(folder.file("annotations.coco.json"))
    (entry,) = [one for one in sealed.annotations if sealed.label_of(one) == "stenosis"]
    assert (entry.origin, entry.model_id, entry.prompt_source) == (
        Origin.HUMAN_BOX,
        "round-01-abc",
        "expert",
    )


def test_a_rectangle_the_model_finds_nothing_in_stays_and_is_named(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    draw_rectangle(gateway, pushed)
    complete(access, gateway, pushed)
    worker = Worker(folder, finds=False)
    for _ in range(2):
        with pytest.raises(DataError, match=r"case-004.*a rectangle is not a mask"):
            pull_boxes(folder, pushed, gateway, worker)
    assert worker.asked == 1, "what the model has said once is not asked for again"


def test_a_label_renamed_in_cvat_is_read_under_its_own_name_and_said(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    lad = next(label for label in gateway.labels(pushed.project_id) if label.name == "LAD")
    call(access, "PATCH", f"/api/labels/{lad.id}", {"name": "left anterior"})
    complete(access, gateway, pushed)
    result = pull_it(folder, pushed, gateway)
    assert result.corrections.count("accepted") == 4
    assert result.told == ("label 'left anterior' was 'LAD' when pushed, and is read as such",)


def test_a_label_deleted_in_cvat_is_not_taken_for_deleted_masks_unasked(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    complete(access, gateway, pushed)
    call(access, "DELETE", f"/api/labels/{pushed.labels['LAD']}")
    with pytest.raises(DataError, match=r"labels were deleted .*: 'LAD'\. Restore .*--force"):
        pull_it(folder, pushed, gateway, allow_incomplete=True)
    assert not folder.has("annotations.coco.json")
    assert pull_it(folder, pushed, gateway, force=True).corrections.count("deleted") == 4


def test_a_round_pushed_to_another_server_is_not_read_from_this_one(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    complete(access, gateway, pushed)
    task = pushed.tasks[0]
    call(access, "PATCH", f"/api/tasks/{task.task_id}", {"bug_tracker": "https://tickets/7"})
    with pytest.raises(DataError, match=rf"'https://tickets/7' and not '{task.key}'"):
        pull_it(folder, pushed, gateway)
    call(access, "PATCH", f"/api/tasks/{task.task_id}", {"bug_tracker": task.key})
    assert pull_it(folder, pushed, gateway).corrections.count("accepted") == 4


def test_a_renamed_label_stops_the_next_rounds_push(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    lad = next(label for label in gateway.labels(pushed.project_id) if label.name == "LAD")
    call(access, "PATCH", f"/api/labels/{lad.id}", {"name": "left anterior"})
    later = RoundFolder(folder.home, 3)
    manifest = folder.manifest().with_(round=3)
    write_document(later.file("manifest.json"), manifest)
    later.file("proposals.coco.json").write_bytes(folder.file("proposals.coco.json").read_bytes())
    again = planned(later, plan)
    with pytest.raises(DataError, match="'LAD' is called 'left anterior'"):
        push_it(later, again, gateway, access)


def test_a_frame_deleted_in_cvat_is_rejected_and_said(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    task_id, frame = place_of(pushed, 2)
    call(access, "PATCH", f"/api/tasks/{task_id}/data/meta", {"deleted_frames": [frame]})
    complete(access, gateway, pushed)
    result = pull_it(folder, pushed, gateway)
    assert result.corrections.rejected == (ref(2),)
    assert result.told == ("frame case-002.f00003.png was deleted in CVAT, and counts as rejected",)
    sealed = read_annotations(folder.file("annotations.coco.json"))
    (image,) = [image for image in sealed.images if image.case_id == "case-002"]
    assert (image.status, image.reason) == ("rejected", "deleted in CVAT")


def test_a_task_deleted_in_cvat_is_missed_and_can_be_pushed_anew(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    gateway.delete_task(pushed.tasks[0].task_id)
    with pytest.raises(DataError, match="is gone from CVAT or has lost jobs"):
        pull_it(folder, pushed, gateway)
    folder.file("pushed.json").unlink()
    again = push_it(folder, plan, gateway, access)
    assert again.tasks[1:] == pushed.tasks[1:]
    complete(access, gateway, again)
    assert pull_it(folder, again, gateway).corrections.count("accepted") == 4


def test_a_polygon_is_converted_and_said(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    corners = [2, 20, 12, 20, 12, 28, 2, 28]
    with_shapes(
        gateway,
        pushed,
        4,
        lambda frame, labels: RemoteAnnotations(
            (shape(frame, labels["stenosis"], corners, "polygon"),)
        ),
    )
    complete(access, gateway, pushed)
    result = pull_it(folder, pushed, gateway)
    (line,) = result.told
    assert "case-004.f00003.png, stenosis" in line
    assert "a polygon became a mask of" in line
    assert result.corrections.count("added") == 1


def test_only_what_changed_is_read_again_and_nothing_is_replaced_unasked(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    complete(access, gateway, pushed)
    pull_it(folder, pushed, gateway)
    assert changed_jobs(folder, pushed, gateway, 2) == ()
    before = {path.name: path.stat().st_mtime_ns for path in folder.file("pull").iterdir()}
    with_shapes(gateway, pushed, 0, lambda _frame, _labels: RemoteAnnotations())
    task_id, _ = place_of(pushed, 0)
    touched = {job.id for job in gateway.jobs(task_id)}
    assert set(changed_jobs(folder, pushed, gateway, 2)) == touched
    with pytest.raises(StateError, match="sealed already; pass --force"):
        pull_it(folder, pushed, gateway)
    result = pull_it(folder, pushed, gateway, force=True)
    assert result.corrections.count("deleted") == 1
    after = {path.name: path.stat().st_mtime_ns for path in folder.file("pull").iterdir()}
    changed = {name for name, stamp in after.items() if before[name] != stamp}
    assert changed == {f"job-{number:06d}.json" for number in touched}
    earlier = read_annotations(folder.file(EARLIER))
    assert len(earlier.annotations) == 4


def test_a_job_older_than_what_was_pulled_is_not_taken_unasked(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    pushed = push_it(folder, plan, gateway, access)
    complete(access, gateway, pushed)
    pull_it(folder, pushed, gateway)
    folder.file("annotations.coco.json").unlink()
    path = next(iter(sorted(folder.file("pull").glob("job-*.json"))))
    kept = read_document(path, PulledJob)
    write_document(path, kept.with_(updated=kept.updated.replace(year=kept.updated.year + 1)))
    with pytest.raises(DataError, match=rf"1 jobs in CVAT are older .*{kept.job_id}"):
        pull_it(folder, pushed, gateway)
    assert pull_it(folder, pushed, gateway, force=True).corrections.count("accepted") == 4


def test_behind_honeypots_the_experts_own_masks_count(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    checks = {"mode": "honeypots", "share": 0.2}
    plan = planned(folder, plan, frames_per_task=5, validation=checks)
    pushed = push_it(folder, plan, gateway, access)
    (task,) = pushed.tasks
    (truth,) = [job for job in gateway.all_jobs(task.task_id) if job.kind == "ground_truth"]
    (position,) = gateway.job_frames(truth.id)
    labels = {label.name: label.id for label in gateway.labels(pushed.project_id)}
    drawn = shape(position, labels["RCA"], masks.to_cvat(bar(30)))
    gateway.replace_in_job(truth.id, RemoteAnnotations((drawn,)))
    for job in gateway.jobs(task.task_id):
        call(access, "PATCH", f"/api/jobs/{job.id}", {"state": "completed"})
    with pytest.raises(StateError, match="1 of"):
        pull_it(folder, pushed, gateway)
    call(access, "PATCH", f"/api/jobs/{truth.id}", {"state": "completed"})
    pull_it(folder, pushed, gateway)
    sealed = read_annotations(folder.file("annotations.coco.json"))
    (image,) = [one for one in sealed.images if one.file_name == task.frames[position]]
    (entry,) = sealed.of_image(image.id)
    assert (sealed.label_of(entry), entry.origin) == ("RCA", Origin.HUMAN)
    assert {one.status for one in sealed.images} <= {"ok", "corrected"}


def test_replicas_tell_how_far_people_agree(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    plan = planned(folder, plan, frames_per_task=5, frames_per_job=5, replicas=2)
    pushed = push_it(folder, plan, gateway, access)
    (task,) = pushed.tasks
    jobs = gateway.all_jobs(task.task_id)
    first = next(job for job in jobs if job.kind == "consensus_replica")
    drawn = gateway.job_annotations(first.id)
    kept = tuple(one for one in drawn.shapes if one.frame != 0)
    gateway.replace_in_job(first.id, RemoteAnnotations(kept))
    for job in jobs:
        call(access, "PATCH", f"/api/jobs/{job.id}", {"state": "completed"})
    effort = pull_it(folder, pushed, gateway).effort
    (lad,) = effort.agreement
    assert (lad.label, lad.pairs, lad.dice_mean, lad.dice_min) == ("LAD", 4, 0.75, 0.0)
    assert effort.cases == 5
    assert sum(share.cases for share in effort.annotators) == 15
    (vessel,) = effort.vessels
    assert (vessel.name, vessel.cases, vessel.accepted) == ("not named", 5, 4)
    assert vessel.acceptance == 1.0
