"""What a server without analytics, a lost task or an unhelpful environment leads to."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from casebook.errors import AccessError, DataError, RemoteError, StateError
from casebook.home import Home
from casebook.rounds import RoundFolder
from cvat_sync.effort import read_effort
from cvat_sync.pull import list_jobs
from cvat_sync.pushed import Pushed, PushedTask, need_pushed
from cvat_sync.remote import (
    RemoteAnnotations,
    RemoteIssue,
    RemoteJob,
    RemoteLabel,
    RemoteProject,
    RemoteTask,
    WorkingTime,
)
from cvat_sync.status import remote_status

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


class SmallCvat:
    """A CVAT in memory that has one project, and fails where it is told to."""

    def __init__(self, *, jobs: tuple[RemoteJob, ...] = (), failure: Exception | None = None):
        self._jobs, self._failure = jobs, failure
        self.labels_there: tuple[RemoteLabel, ...] = ()
        self.projects_there: tuple[RemoteProject, ...] = ()
        self.tasks_there: tuple[RemoteTask, ...] = (RemoteTask(1, "part 1", "k", 2),)

    def about(self) -> str:
        if self._failure is not None:
            raise self._failure
        return "a small CVAT"

    def projects(self) -> tuple[RemoteProject, ...]:
        return self.projects_there

    def create_project(self, name: str, key: str, labels: object) -> RemoteProject:
        raise AssertionError("nothing is made here")

    def change_labels(self, project_id: int, changes: object) -> None:
        raise AssertionError("nothing is made here")

    def labels(self, project_id: int) -> tuple[RemoteLabel, ...]:
        return self.labels_there

    def tasks(self, project_id: int) -> tuple[RemoteTask, ...]:
        return self.tasks_there

    def create_task(self, *_: object) -> RemoteTask:
        raise AssertionError("nothing is made here")

    def delete_task(self, task_id: int) -> None:
        raise AssertionError("nothing is made here")

    def frame_names(self, task_id: int) -> tuple[str, ...]:
        return ()

    def deleted_frames(self, task_id: int) -> tuple[int, ...]:
        return ()

    def job_frames(self, job_id: int) -> tuple[int, ...]:
        return ()

    def jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        return tuple(job for job in self._jobs if job.task_id == task_id)

    def all_jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        return self.jobs(task_id)

    def replace_in_job(self, job_id: int, annotations: RemoteAnnotations) -> None:
        raise AssertionError("nothing is made here")

    def task_annotations(self, task_id: int) -> RemoteAnnotations:
        return RemoteAnnotations()

    def job_annotations(self, job_id: int) -> RemoteAnnotations:
        return RemoteAnnotations()

    def replace_annotations(self, task_id: int, annotations: RemoteAnnotations) -> None:
        raise AssertionError("nothing is made here")

    def issues(self, job_id: int) -> tuple[RemoteIssue, ...]:
        return ()

    def working_times(self, project_id: int) -> tuple[WorkingTime, ...]:
        if self._failure is not None:
            raise self._failure
        return ()


def job(state: str = "completed", *, last: int = 1) -> RemoteJob:
    return RemoteJob(5, 1, 0, last, "annotation", state, None, WHEN, WHEN)


def pushed(n_frames: int = 2) -> Pushed:
    names = tuple(f"case-{i}.f00003.png" for i in range(n_frames))
    task = PushedTask(key="k", task_id=1, name="part 1", frames=names, masks=0)
    return Pushed(
        round=2,
        url="http://cvat",
        project_id=4,
        project="p",
        manifest_sha256="0",
        tasks=(task,),
        at=WHEN,
    )


def test_without_analytics_the_dates_of_jobs_are_used(tmp_path: Path) -> None:
    cvat = SmallCvat(failure=RemoteError("no ClickHouse"))
    effort = read_effort(RoundFolder(Home(tmp_path), 2), pushed(), [job()], cvat)
    assert effort.source == "job dates"


def test_refused_credentials_are_not_taken_for_missing_analytics(tmp_path: Path) -> None:
    cvat = SmallCvat(failure=AccessError("token withdrawn"))
    with pytest.raises(AccessError, match="withdrawn"):
        read_effort(RoundFolder(Home(tmp_path), 2), pushed(), [job()], cvat)


@pytest.mark.parametrize("jobs", [(), (job(last=0),)], ids=["task gone", "job gone"])
def test_frames_that_are_gone_from_cvat_are_missed(jobs: tuple[RemoteJob, ...]) -> None:
    with pytest.raises(DataError, match="task 1 'part 1' is gone"):
        list_jobs(SmallCvat(jobs=jobs), pushed(), 1)


@pytest.mark.parametrize(
    ("there", "says"),
    [
        pytest.param((), r"it is not in project 4 'p'.*bring the task back", id="elsewhere"),
        pytest.param(
            (RemoteTask(1, "part 1", "another", 2),),
            r"issue tracker field says 'another' and not 'k'.*write that back",
            id="another",
        ),
    ],
)
def test_a_task_of_another_server_is_not_taken_for_ours(
    there: tuple[RemoteTask, ...], says: str
) -> None:
    cvat = SmallCvat(jobs=(job(),))
    cvat.tasks_there = there
    with pytest.raises(DataError, match=rf"{says}") as told:
        list_jobs(cvat, pushed(), 1)
    assert "Set ANGIOLOOP_CVAT_URL to the server it was pushed to (http://cvat)" in str(told.value)


def test_the_status_lists_open_jobs(tmp_path: Path) -> None:
    cvat = SmallCvat(jobs=(job("in progress"),))
    status = remote_status(RoundFolder(Home(tmp_path), 2), pushed(), cvat, 1)
    assert status.lines() == (
        "round 02: empty",
        "  http://cvat/projects/4: 1 tasks",
        "  jobs: 1 in progress",
        "  open: 5",
    )


def test_a_round_that_was_not_pushed_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cvatsync push --round 2"):
        need_pushed(RoundFolder(Home(tmp_path), 2))
