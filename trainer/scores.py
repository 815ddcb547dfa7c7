"""How well a model does on the frozen cases, case by case. Knows no model and no images."""

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from angio.evaluation import CaseEvaluation
from casebook.documents import Document
from casebook.metrics import Interval, bootstrap_mean

Figure = Literal[
    "iou_box",
    "iou_auto",
    "dice",
    "cldice",
    "frangi_dice",
    "tree_dice",
    "tree_cldice",
    "tree_frangi_dice",
]
"""Figures of `angio.evaluation.CaseEvaluation`."""


class Mean(Document):
    """A mean with its 95 % bootstrap interval over cases."""

    mean: float
    low: float
    high: float
    n: int


def mean_of(values: list[float]) -> Mean:
    """Mean and interval of at least one value."""
    found = bootstrap_mean(values)
    return Mean(mean=found.mean, low=found.low, high=found.high, n=found.n)


class SplitScores(Document):
    """All cases of one frozen split."""

    cases: tuple[CaseEvaluation, ...] = ()

    def iou_by_case(self) -> dict[str, float]:
        """The box-prompted IoU by case."""
        return {case.case_id: case.iou_box for case in self.cases}

    def values(self, figure: Figure) -> list[float]:
        """One figure of every case that has it."""
        found: Sequence[float | None] = [getattr(case, figure) for case in self.cases]
        return [value for value in found if value is not None]

    def mean(self, figure: Figure) -> float | None:
        """The mean of a figure, when any case has it."""
        values = self.values(figure)
        return sum(values) / len(values) if values else None

    def interval(self, figure: Figure) -> Interval | None:
        """The mean with its 95 % bootstrap interval over cases."""
        values = self.values(figure)
        return bootstrap_mean(values) if values else None


class ModelScores(Document):
    """One model on both frozen splits."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    model_id: str
    cases_sha256: str
    """Identity of the cases and their truth: scores of other cases are not comparable."""
    val: SplitScores
    test: SplitScores
    seconds: float = Field(default=0.0, ge=0)
    """Time the evaluation took."""


class RoundEvaluation(Document):
    """Candidate and incumbent on the same frozen cases."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int
    manifest_sha256: str
    candidate: ModelScores
    incumbent: ModelScores
