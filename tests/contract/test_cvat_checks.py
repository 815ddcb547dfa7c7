"""Jobs go to people in turn; CVAT's checks are set up: ground truth, honeypots, replicas."""

from typing import Any

import pytest

from casebook.annotations import AnnotationSetBuilder, write_annotations
from casebook.errors import DataError, UnreachableError
from casebook.rounds import RoundFolder
from cvat_sync.gateway import CvatGateway
from cvat_sync.jobs import frames_of
from cvat_sync.plan import PushPlan
from cvat_sync.proposals import Proposals
from cvat_sync.remote import NewTask
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import call, planned, push_it
from tests.fakes.cvat_round import LABELS


def test_jobs_go_to_the_assignees_in_turn_and_tasks_say_their_subset_and_page(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    me = call(access, "GET", "/api/users/self")
    plan = planned(folder, plan, assignees=[me["username"]], link="https://lab/rounds/2")
    pushed = push_it(folder, plan, gateway, access)
    for task in pushed.tasks:
        entry = call(access, "GET", f"/api/tasks/{task.task_id}")
        assert entry["subset"] == "Train"
        assert entry["bug_tracker"] == f"https://lab/rounds/2#{task.key}"
        jobs = call(access, "GET", f"/api/jobs?task_id={task.task_id}")["results"]
        assert {job["assignee"]["id"] for job in jobs} == {me["id"]}
    folder.file("pushed.json").unlink()
    assert push_it(folder, plan, gateway, access).tasks == pushed.tasks


def test_an_assignee_cvat_does_not_know_stops_the_push_before_anything_is_made(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    plan = planned(folder, plan, assignees=["nobody of this name"])
    with pytest.raises(DataError, match="no user 'nobody of this name'"):
        push_it(folder, plan, gateway, access)
    assert plan.project not in {project.name for project in gateway.projects()}


def test_a_ground_truth_job_has_some_frames_of_the_task_and_no_proposals(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    checks = {"mode": "ground_truth", "share": 0.3}
    plan = planned(folder, plan, frames_per_task=5, validation=checks)
    pushed = push_it(folder, plan, gateway, access)
    (task,) = pushed.tasks
    (truth,) = [job for job in gateway.all_jobs(task.task_id) if job.kind == "ground_truth"]
    assert len(frames_of(gateway, truth.id)) == 1
    assert gateway.job_annotations(truth.id).shapes == ()
    assert len(gateway.task_annotations(task.task_id).shapes) == 4
    assert len(gateway.jobs(task.task_id)) == 5


def test_honeypots_are_hidden_in_every_job_and_the_truth_is_drawn_without_proposals(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    checks = {"mode": "honeypots", "share": 0.2}
    plan = planned(folder, plan, frames_per_task=5, frames_per_job=2, validation=checks)
    pushed = push_it(folder, plan, gateway, access)
    (task,) = pushed.tasks
    assert set(task.frames) == set(plan.tasks[0].frames)
    jobs = gateway.all_jobs(task.task_id)
    (truth,) = [job for job in jobs if job.kind == "ground_truth"]
    (pot,) = [task.frames[frame] for frame in frames_of(gateway, truth.id)]
    for job in gateway.jobs(task.task_id):
        assert pot in [task.frames[frame] for frame in frames_of(gateway, job.id)]
    assert task.frames.count(pot) == 3
    assert gateway.job_annotations(truth.id).shapes == ()
    proposals = Proposals(folder.file("proposals.coco.json"))
    for job in gateway.jobs(task.task_id):
        expected = sum(
            sum(proposals.count(task.frames[frame]).values())
            for frame in range(job.start_frame, job.stop_frame + 1)
        )
        assert len(gateway.job_annotations(job.id).shapes) == expected
    folder.file("pushed.json").unlink()
    assert push_it(folder, plan, gateway, access).tasks == pushed.tasks


def test_each_replica_of_a_job_begins_with_the_proposals(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    plan = planned(folder, plan, frames_per_task=5, frames_per_job=3, replicas=2)
    pushed = push_it(folder, plan, gateway, access)
    (task,) = pushed.tasks
    jobs = gateway.all_jobs(task.task_id)
    replicas = [job for job in jobs if job.kind == "consensus_replica"]
    assert len(replicas) == 4
    assert {job.parent_id for job in replicas} == {job.id for job in gateway.jobs(task.task_id)}
    counts = [len(gateway.job_annotations(job.id).shapes) for job in replicas]
    assert sorted(counts) == [1, 1, 3, 3]
    folder.file("pushed.json").unlink()
    push_it(folder, plan, gateway, access)
    assert [len(gateway.job_annotations(job.id).shapes) for job in replicas] == counts


def test_people_who_began_in_another_cut_of_the_round_are_not_undone(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    first = push_it(folder, plan, gateway, access)
    folder.file("pushed.json").unlink()
    wider = planned(folder, plan, frames_per_task=5)
    begun = gateway.jobs(first.tasks[1].task_id)[0]
    call(access, "PATCH", f"/api/jobs/{begun.id}", {"state": "in progress"})
    with pytest.raises(DataError, match="people have worked"):
        push_it(folder, wider, gateway, access)
    call(access, "PATCH", f"/api/jobs/{begun.id}", {"state": "new"})
    again = push_it(folder, wider, gateway, access)
    assert [task.id for task in gateway.tasks(again.project_id)] == [again.tasks[0].task_id]


def test_two_tasks_of_one_key_become_one_and_the_one_people_use_stays(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    first = push_it(folder, plan, gateway, access)
    folder.file("pushed.json").unlink()
    task = first.tasks[0]
    files = [folder.home.cases / name.partition(".")[0] / "00003.png" for name in task.frames]
    named = dict(zip(task.frames, files, strict=True))
    twin = gateway.create_task(NewTask(first.project_id, task.name, task.key, named, 1))
    begun = gateway.jobs(twin.id)[0]
    call(access, "PATCH", f"/api/jobs/{begun.id}", {"state": "in progress"})
    again = push_it(folder, plan, gateway, access)
    assert again.tasks[0].task_id == twin.id
    assert len(gateway.tasks(first.project_id)) == len(plan.tasks)


class Late:
    """A gateway beside which an earlier, killed push's task appears late, and is begun at once."""

    def __init__(self, gateway: CvatGateway, access: Access) -> None:
        self._gateway, self._access = gateway, access
        self.twin: int | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)
        if name != "create_task" or self.twin is not None:
            return method

        def twice(*args: Any, **options: Any) -> Any:
            made = method(*args, **options)
            if self.twin is None:
                self.twin = method(*args, **options).id
                job = self._gateway.jobs(self.twin)[0]
                call(self._access, "PATCH", f"/api/jobs/{job.id}", {"state": "in progress"})
            return made

        return twice


class Forgetful:
    """A gateway whose first answer about labels is lost on the way."""

    def __init__(self, gateway: CvatGateway) -> None:
        self._gateway = gateway
        self.n_asked = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    def labels(self, project_id: int) -> Any:
        self.n_asked += 1
        if self.n_asked == 1:
            raise UnreachableError("no answer")
        return self._gateway.labels(project_id)


@pytest.mark.parametrize("n_masks", [4, 0], ids=["with masks", "without"])
def test_labels_of_a_new_project_are_asked_for_again_where_the_answer_was_lost(
    n_masks: int, folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    if n_masks == 0:
        write_annotations(folder.file("proposals.coco.json"), AnnotationSetBuilder(LABELS).build())
        plan = planned(folder, plan)
    forgetful = Forgetful(gateway)
    pushed = push_it(folder, plan, forgetful, access)
    assert forgetful.n_asked == 2
    assert set(pushed.labels) == {label.name for label in LABELS.labels}
    drawn = [len(gateway.task_annotations(task.task_id).shapes) for task in pushed.tasks]
    assert sum(drawn) == n_masks


class Shuffling:
    """A gateway to a CVAT that puts the frames of its first task in another order."""

    def __init__(self, gateway: CvatGateway) -> None:
        self._gateway = gateway
        self.has_told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    def frame_names(self, task_id: int) -> tuple[str, ...]:
        names = self._gateway.frame_names(task_id)
        if self.has_told:
            return names
        self.has_told = True
        return names[::-1]


def test_a_task_with_its_frames_in_another_order_is_refused_and_then_made_again(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    plan = planned(folder, plan, frames_per_task=5)
    with pytest.raises(DataError, match="other frames than were sent"):
        push_it(folder, plan, Shuffling(gateway), access)
    ours = next(one for one in gateway.projects() if one.name == plan.project)
    (made,) = gateway.tasks(ours.id)
    shuffled = Shuffling(gateway)  # the order found before the next push begins
    pushed = push_it(folder, plan, shuffled, access)
    assert [task.id for task in gateway.tasks(pushed.project_id)] == [pushed.tasks[0].task_id]
    assert pushed.tasks[0].task_id != made.id


def test_a_task_that_appears_late_and_is_begun_is_the_one_that_is_kept(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    late = Late(gateway, access)
    plan = planned(folder, plan, frames_per_task=5)
    pushed = push_it(folder, plan, late, access)
    assert [task.task_id for task in pushed.tasks] == [late.twin]
    assert [task.id for task in gateway.tasks(pushed.project_id)] == [late.twin]
