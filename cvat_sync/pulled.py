"""What was read back from CVAT: one file a job under pull/, unchecked, with names for numbers."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.documents import Document
from casebook.rounds import RoundFolder
from cvat_sync.marks import is_unanswered
from cvat_sync.remote import (
    RemoteAnnotations,
    RemoteIssue,
    RemoteJob,
    RemoteLabel,
)


class PulledShape(Document):
    """A shape as CVAT had it."""

    shape_id: int | None
    frame: int
    """Position in the task; may lie outside the job, for the server does not check."""
    label: str
    """Name of the label; empty when the project does not have it."""
    type: str
    points: tuple[float, ...]
    """Empty when CVAT had a number that is not finite."""
    source: str
    score: float
    attributes: dict[str, str]


class PulledTag(Document):
    """A tag on a frame."""

    frame: int
    label: str
    attributes: dict[str, str]


class PulledNote(Document):
    """What an annotator wrote about a frame."""

    frame: int
    text: str


class PulledJob(Document):
    """A completed job."""

    schema_: Literal[1, 2] = Field(default=2, alias="schema", serialization_alias="schema")
    """1 had ordinary jobs only: neither `kind`, `parent_id` nor `frames`."""
    job_id: int
    task_id: int
    kind: str = "annotation"
    """`annotation`, `ground_truth` or `consensus_replica`."""
    parent_id: int | None = None
    """Of a replica: the job it repeats."""
    start_frame: int
    stop_frame: int
    frames: tuple[int, ...] | None = None
    """Positions in the task, where they are not all from start to stop."""
    annotator: str | None
    created: datetime
    updated: datetime
    shapes: tuple[PulledShape, ...]
    tags: tuple[PulledTag, ...]
    notes: tuple[PulledNote, ...]
    n_tracks: int

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions in the task of the frames this job is about."""
        if self.frames is not None:
            return self.frames
        return tuple(range(self.start_frame, self.stop_frame + 1))


def job_path(folder: RoundFolder, job_id: int) -> Path:
    """The file of a job, `pull/job-000811.json`."""
    return folder.file("pull") / f"job-{job_id:06d}.json"


def pulled_job(
    job: RemoteJob,
    drawn: RemoteAnnotations,
    issues: Sequence[RemoteIssue],
    labels: Sequence[RemoteLabel],
    frames: tuple[int, ...] | None = None,
) -> PulledJob:
    """A job and what is drawn in it, with labels and attributes by name.

    `frames` are its positions in the task, where they are scattered.
    """
    known = {label.id: label for label in labels}
    specs = {spec: name for label in labels for name, spec in label.attributes.items()}

    def named(attributes: Mapping[int, str]) -> dict[str, str]:
        return {specs[spec]: value for spec, value in attributes.items() if spec in specs and value}

    def label_name(label_id: int) -> str:
        return known[label_id].name if label_id in known else ""

    return PulledJob(
        job_id=job.id,
        task_id=job.task_id,
        kind=job.kind,
        parent_id=job.parent_id,
        frames=frames,
        start_frame=job.start_frame,
        stop_frame=job.stop_frame,
        annotator=job.annotator,
        created=job.created,
        updated=job.updated,
        shapes=tuple(
            PulledShape(
                shape_id=shape.id,
                frame=shape.frame,
                label=label_name(shape.label_id),
                type=shape.type,
                points=tuple(shape.points) if all(map(math.isfinite, shape.points)) else (),
                source=shape.source,
                score=shape.score,
                attributes=named(shape.attributes),
            )
            for shape in drawn.shapes
        ),
        tags=tuple(
            PulledTag(
                frame=tag.frame, label=label_name(tag.label_id), attributes=named(tag.attributes)
            )
            for tag in drawn.tags
        ),
        notes=tuple(
            PulledNote(frame=issue.frame, text=issue.text)
            for issue in issues
            if not is_unanswered(issue.text)
        ),
        n_tracks=drawn.n_tracks,
    )
