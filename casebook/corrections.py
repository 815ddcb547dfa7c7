"""What the experts changed in a round, and the time it took: corrections.json and effort.json.

Written by the pull, read by the reports. Knows nothing of CVAT.
"""

from typing import Literal

from pydantic import Field

from casebook.cases import FrameRef
from casebook.documents import Document

BASELINE_S_PER_CASE = 300.0
"""A case annotated by hand from nothing: the plan's 5 minutes."""

Outcome = Literal["accepted", "refined", "added", "deleted"]


class MaskChange(Document):
    """What became of one mask."""

    at: FrameRef
    label: str
    outcome: Outcome
    """accepted: the proposal untouched; refined: changed; added: no proposal; deleted."""
    iou: float | None = Field(default=None, ge=0, le=1)
    """Agreement of the result with its proposal, when both are there."""
    changed_px: int = Field(default=0, ge=0)
    """Pixels that differ from the proposal."""
    model_id: str | None = None
    """Who proposed it."""


class Corrections(Document):
    """Every mask of a round compared with its proposal."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int = Field(ge=1)
    changes: tuple[MaskChange, ...] = ()
    rejected: tuple[FrameRef, ...] = ()
    """Frames the experts found unusable."""

    def count(self, outcome: Outcome) -> int:
        """Number of masks with this outcome."""
        return sum(change.outcome == outcome for change in self.changes)


class JobEffort(Document):
    """Time spent on one job."""

    job_id: int
    annotator: str | None = None
    cases: int = Field(ge=0)
    seconds: float = Field(ge=0)


class Share(Document):
    """A part of a round's work: one annotator's, or that on one vessel."""

    name: str
    cases: int = Field(ge=0)
    seconds: float = Field(ge=0)
    """A job's time is shared out evenly among its cases."""
    accepted: int = Field(default=0, ge=0)
    refined: int = Field(default=0, ge=0)
    added: int = Field(default=0, ge=0)
    deleted: int = Field(default=0, ge=0)
    rejected: int = Field(default=0, ge=0)
    """Frames."""

    @property
    def acceptance(self) -> float | None:
        """Proposals kept untouched, as a fraction of all; nothing where there were none."""
        proposals = self.accepted + self.refined + self.deleted
        return self.accepted / proposals if proposals else None


class Agreement(Document):
    """How far people who did the same job agree on a label."""

    label: str
    pairs: int = Field(ge=1)
    """Pairs of people on one frame, of whom at least one drew the label."""
    dice_mean: float = Field(ge=0, le=1)
    dice_min: float = Field(ge=0, le=1)


class Effort(Document):
    """Time spent on a round."""

    schema_: Literal[1, 2] = Field(default=2, alias="schema", serialization_alias="schema")
    """1 had the jobs alone: no shares, agreement or interval."""
    round: int = Field(ge=1)
    jobs: tuple[JobEffort, ...] = ()
    source: Literal["working time events", "job dates"]
    """Measured by CVAT's analytics, or the span between a job's first and last change."""
    is_simulated: bool = False
    """Whether a simulated expert's seconds stand in for a person's."""
    baseline_s_per_case: float = Field(default=BASELINE_S_PER_CASE, gt=0)
    hours_saved_ci95: tuple[float, float] | None = None
    """By bootstrap over jobs; nothing where there are fewer than two."""
    annotators: tuple[Share, ...] = ()
    vessels: tuple[Share, ...] = ()
    agreement: tuple[Agreement, ...] = ()
    """Where jobs were done more than once."""

    @property
    def cases(self) -> int:
        """Cases worked on."""
        return sum(job.cases for job in self.jobs)

    @property
    def seconds(self) -> float:
        """Time spent in all."""
        return sum((job.seconds for job in self.jobs), 0.0)

    @property
    def hours_saved(self) -> float:
        """Against annotating every case by hand; negative when it took longer."""
        return (self.cases * self.baseline_s_per_case - self.seconds) / 3600
