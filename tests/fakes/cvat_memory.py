"""A CVAT in memory that holds one pushed round: jobs get done, masks change, things go wrong."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from casebook import masks
from casebook.annotations import read_annotations
from casebook.errors import RemoteError
from casebook.rounds import RoundFolder
from cvat_sync.pushed import Pushed, PushedTask
from cvat_sync.remote import (
    CONFIDENCE,
    MODEL_ID,
    RemoteAnnotations,
    RemoteIssue,
    RemoteJob,
    RemoteLabel,
    RemoteShape,
    RemoteTask,
    Server,
    WorkingTime,
)
from tests.fakes.cvat_round import bar

WHEN = datetime(2026, 1, 1, tzinfo=UTC)
URL = "http://cvat"
PER_TASK = 2


class MemoryCvat(Server):
    """Tasks of two frames, one job a frame; what is drawn are the proposals, until changed."""

    project_id = 4

    def __init__(self, folder: RoundFolder) -> None:
        names = sorted(case.at.file_name for case in folder.manifest().cases)
        parts = [names[i : i + PER_TASK] for i in range(0, len(names), PER_TASK)]
        self.frames = {11 + i: tuple(part) for i, part in enumerate(parts)}
        self.task_ids = list(self.frames)
        self._completed = 0
        self.deleted: set[int] = set()
        self.failure: Exception | None = None
        self.failure_at: str | None = None
        self._labels = tuple(
            RemoteLabel(100 + i, label.name, {MODEL_ID: 1000 + 10 * i, CONFIDENCE: 1001 + 10 * i})
            for i, label in enumerate(folder.manifest().labels.labels)
        )
        self.drawn: dict[int, list[RemoteShape]] = {job.id: [] for job in self._all_jobs()}
        by_name = {label.name: label for label in self._labels}
        proposals = read_annotations(folder.file("proposals.coco.json"))
        jobs = {self.frames[job.task_id][job.start_frame]: job for job in self._all_jobs()}
        for image in proposals.images:
            for entry in proposals.of_image(image.id):
                job, label = jobs[image.file_name], by_name[proposals.label_of(entry)]
                values = {MODEL_ID: str(entry.model_id), CONFIDENCE: "87"}
                shape = RemoteShape(
                    id=entry.id,
                    frame=job.start_frame,
                    label_id=label.id,
                    type="mask",
                    points=masks.to_cvat(masks.decode(entry.mask)),
                    source="auto",
                    score=entry.score or 1.0,
                    attributes={label.attributes[name]: value for name, value in values.items()},
                )
                self.drawn[job.id].append(shape)

    def complete(self, count: int) -> None:
        """Let the first jobs be completed."""
        self._completed = count

    def damage(self, position: int) -> None:
        """Let the mask of a job have runs that do not fill its box."""
        job = self._all_jobs()[position]
        self.drawn[job.id] = [replace(one, points=[9, 0, 0, 2, 2]) for one in self.drawn[job.id]]

    def redraw(self, position: int, row: int, *, label: str | None = None) -> None:
        """Let a person have moved the mask of a job to other rows."""
        job = self._all_jobs()[position]
        shown = [replace(one, points=masks.to_cvat(bar(row))) for one in self.drawn[job.id]]
        if label is not None:
            (label_id,) = [one.id for one in self._labels if one.name == label]
            shown = [replace(one, label_id=label_id) for one in shown]
        self.drawn[job.id] = shown

    def _all_jobs(self) -> list[RemoteJob]:
        found: list[RemoteJob] = []
        for task_id, names in self.frames.items():
            for frame in range(len(names)):
                number = len(found)
                done = number < self._completed
                state, stage = ("completed", "acceptance") if done else ("new", "annotation")
                ended = WHEN + timedelta(minutes=5 * done)
                found.append(
                    RemoteJob(50 + number, task_id, frame, frame, stage, state, None, WHEN, ended)
                )
        return found

    def _check(self, name: str) -> None:
        if self.failure is not None:
            raise self.failure
        if self.failure_at == name:
            raise KeyboardInterrupt

    def jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        self._check("jobs")
        if task_id in self.deleted:
            return ()
        return tuple(job for job in self._all_jobs() if job.task_id == task_id)

    def all_jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        return self.jobs(task_id)

    def tasks(self, project_id: int) -> tuple[RemoteTask, ...]:
        return tuple(
            RemoteTask(task_id, f"part {task_id}", f"part {task_id}", len(names))
            for task_id, names in self.frames.items()
            if task_id not in self.deleted
        )

    def deleted_frames(self, task_id: int) -> tuple[int, ...]:
        return ()

    def labels(self, project_id: int) -> tuple[RemoteLabel, ...]:
        assert project_id == self.project_id
        return self._labels

    def job_annotations(self, job_id: int) -> RemoteAnnotations:
        self._check("job_annotations")
        return RemoteAnnotations(tuple(self.drawn[job_id]))

    def issues(self, job_id: int) -> tuple[RemoteIssue, ...]:
        return ()

    def working_times(self, project_id: int) -> tuple[WorkingTime, ...]:
        raise RemoteError("no analytics here")


def pushed_round(folder: RoundFolder, cvat: MemoryCvat) -> Pushed:
    """What a push of the round into it leaves."""
    tasks = tuple(
        PushedTask(
            key=f"part {task_id}",
            task_id=task_id,
            name=f"round {folder.number:02d} part {task_id}",
            frames=names,
            masks=sum(len(cvat.drawn[job.id]) for job in cvat.jobs(task_id)),
        )
        for task_id, names in cvat.frames.items()
    )
    return Pushed(
        round=folder.number,
        url=URL,
        project_id=cvat.project_id,
        project="test vessels",
        manifest_sha256=folder.manifest_sha256(),
        tasks=tasks,
        at=WHEN,
    )
