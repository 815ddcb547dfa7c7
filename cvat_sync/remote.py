"""What we see of CVAT: projects, labels, tasks, jobs and annotations as plain values.

Knows nothing of the SDK that brings them, nor of HTTP.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from casebook.documents import Document
from casebook.labels import LabelSet
from cvat_sync.rest import Rest
from cvat_sync.settings import Validation

MODEL_ID, CONFIDENCE, STENOSIS_PCT, MLD = "model_id", "confidence", "stenosis_pct", "mld"
"""Attributes of every mask label: who proposed it, how sure in percent, what was measured."""
REASON = "reason"
"""Attribute of the tag that rejects a frame."""
LabelSpec = dict[str, object]
"""A label as CVAT's API takes it."""


@dataclass(frozen=True)
class RemoteLabel:
    """A label of a project, with the ids of its attributes by name."""

    id: int
    name: str
    attributes: dict[str, int]
    type: str = "any"
    """The one kind of shape it takes, or `any`."""


@dataclass(frozen=True)
class RemoteProject:
    """A project."""

    id: int
    name: str
    key: str
    """What we wrote into its bug tracker field."""


@dataclass(frozen=True)
class RemoteTask:
    """A task."""

    id: int
    name: str
    key: str
    n_frames: int
    """0 until its data have been uploaded."""


@dataclass(frozen=True)
class RemoteJob:
    """A job: a range of a task's frames."""

    id: int
    task_id: int
    start_frame: int
    stop_frame: int
    """Inclusive."""
    stage: str
    state: str
    annotator: str | None
    """A pseudonym: the user's number in CVAT."""
    created: datetime
    updated: datetime
    kind: str = "annotation"
    """`annotation`, `ground_truth` or `consensus_replica`."""
    parent_id: int | None = None
    """Of a replica: the job it repeats."""
    is_assigned: bool = False


class TaskOptions(Document):
    """How a new task is cut and checked, beside its name and frames."""

    subset: str = ""
    replicas: int = 0
    """Copies of every job, for CVAT's consensus."""
    validation: Validation | None = None
    seed: int = 0
    """Of CVAT's choice of the frames to check."""


PLAIN = TaskOptions()
"""Neither checked nor repeated."""


@dataclass(frozen=True)
class NewTask:
    """A task to be made, with its frames."""

    project_id: int
    name: str
    key: str
    """Goes into its bug tracker field: by it the task is found again, for names may repeat."""
    files: Mapping[str, Path]
    """Where each frame lies, by the name it is sent under."""
    frames_per_job: int
    options: TaskOptions = PLAIN


@dataclass(frozen=True)
class RemoteShape:
    """A shape of any type, as the server stores it: unchecked."""

    id: int | None
    frame: int
    label_id: int
    type: str
    points: Sequence[float | int]
    source: str = "manual"
    score: float = 1.0
    attributes: dict[int, str] = field(default_factory=dict)
    """Values by attribute id."""


@dataclass(frozen=True)
class RemoteTag:
    """A tag on a frame."""

    id: int | None
    frame: int
    label_id: int
    attributes: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoteAnnotations:
    """The annotations of a task or job."""

    shapes: tuple[RemoteShape, ...] = ()
    tags: tuple[RemoteTag, ...] = ()
    n_tracks: int = 0
    """Tracks are not read; their number is, so that they can be reported."""


@dataclass(frozen=True)
class RemoteIssue:
    """An issue raised on a frame, with the text of its comments."""

    frame: int
    text: str


@dataclass(frozen=True)
class WorkingTime:
    """Time CVAT's analytics saw on a job."""

    job_id: int
    seconds: float
    is_simulated: bool


@runtime_checkable
class Gateway(Protocol):
    """A CVAT server.

    Raises `UnreachableError` when it does not answer after retries, `AccessError` when it refuses
    the credentials, `RemoteError` when it refuses anything else.
    """

    def about(self) -> str:
        """Name and version of the server, and who we are there."""

    def projects(self) -> tuple[RemoteProject, ...]:
        """All projects we see."""

    def create_project(self, name: str, key: str, labels: LabelSet) -> RemoteProject:
        """A new project with the labels of a label set; never retried, names may repeat."""

    def change_labels(self, project_id: int, changes: Sequence[LabelSpec]) -> None:
        """Add labels, or attributes to labels named by their id; nothing is ever removed."""

    def labels(self, project_id: int) -> tuple[RemoteLabel, ...]:
        """The labels of a project."""

    def tasks(self, project_id: int) -> tuple[RemoteTask, ...]:
        """All tasks of a project."""

    def create_task(self, new: NewTask) -> RemoteTask:
        """A new task with its frames, losslessly; never retried, names may repeat.

        It counts the frames that were sent; `frame_names` tells what CVAT made of them.
        """

    def delete_task(self, task_id: int) -> None:
        """Delete a task."""

    def frame_names(self, task_id: int) -> tuple[str, ...]:
        """File names of a task's frames, in frame order."""

    def deleted_frames(self, task_id: int) -> tuple[int, ...]:
        """Positions of the frames somebody has deleted from a task."""

    def job_frames(self, job_id: int) -> tuple[int, ...]:
        """Positions in the task of a job's frames; those of a ground truth job are scattered."""

    def jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        """The annotation jobs of a task, by id."""

    def all_jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        """All jobs of a task, by id: ground truth and consensus replicas too."""

    def task_annotations(self, task_id: int) -> RemoteAnnotations:
        """What is drawn in a task."""

    def job_annotations(self, job_id: int) -> RemoteAnnotations:
        """What is drawn in a job."""

    def replace_annotations(self, task_id: int, annotations: RemoteAnnotations) -> None:
        """Replace everything drawn in a task."""

    def replace_in_job(self, job_id: int, annotations: RemoteAnnotations) -> None:
        """Replace everything drawn in a job."""

    def issues(self, job_id: int) -> tuple[RemoteIssue, ...]:
        """The issues raised in a job."""

    def working_times(self, project_id: int) -> tuple[WorkingTime, ...]:
        """Time spent by job, from CVAT's analytics."""


@runtime_checkable
class Server(Gateway, Rest, Protocol):
    """A CVAT server, with its smaller resources."""
