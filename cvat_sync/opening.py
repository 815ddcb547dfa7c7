"""Where a round's work is to be found in CVAT: the address of each of its jobs."""

from casebook.documents import Document
from cvat_sync.pull import list_jobs
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway


class JobLink(Document):
    """One job."""

    job_id: int
    url: str
    state: str
    annotator: str | None
    """A pseudonym: the user's number in CVAT."""
    frames: tuple[str, ...]
    """File names, in order."""


class TaskLink(Document):
    """One task with its jobs."""

    task_id: int
    name: str
    url: str
    jobs: tuple[JobLink, ...]


class Opening(Document):
    """All addresses of a round."""

    round: int
    project_url: str
    tasks: tuple[TaskLink, ...]

    def lines(self) -> tuple[str, ...]:
        """The project, then a line for each job."""
        jobs = [
            f"{job.url}  {job.state}  {task.name}, {len(job.frames)} frames"
            + (f"  {job.annotator}" if job.annotator else "")
            for task in self.tasks
            for job in task.jobs
        ]
        return (self.project_url, *jobs)


def opening(pushed: Pushed, gateway: Gateway, parallel: int) -> Opening:
    """Where a pushed round is worked on.

    Raises:
        DataError: a task of the round has no job any more.
    """
    jobs = list_jobs(gateway, pushed, parallel)
    tasks = []
    for task in pushed.tasks:
        url = f"{pushed.url}/tasks/{task.task_id}"
        links = [
            JobLink(
                job_id=job.id,
                url=f"{url}/jobs/{job.id}",
                state=job.state,
                annotator=job.annotator,
                frames=task.frames[job.start_frame : job.stop_frame + 1],
            )
            for job in jobs
            if job.task_id == task.task_id
        ]
        tasks.append(TaskLink(task_id=task.task_id, name=task.name, url=url, jobs=tuple(links)))
    project = f"{pushed.url}/projects/{pushed.project_id}"
    return Opening(round=pushed.round, project_url=project, tasks=tuple(tasks))
