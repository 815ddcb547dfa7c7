"""What a model's score is worth: the chance that a mask with this score is right.

Two numbers per path are fitted on masks whose truth is known, after Platt. Knows no model.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import Field
from scipy.optimize import minimize

from casebook.documents import Document, read_document, write_document
from casebook.errors import DataError
from casebook.home import Home

MIN_MASKS = 20
"""Fewer masks than this say nothing of odds."""
RIGHT_IOU = 0.5
"""A mask that shares this much with the expert's is right."""
_STEEPEST = 50.0
_NEAR = 1e-4
"""Scores are kept this far from 0 and 1, whose odds are not finite."""


class Curve(Document):
    """Odds by score: sigmoid(slope · logit(score) + intercept), which never falls."""

    slope: float = Field(ge=0)
    intercept: float
    masks: int = Field(ge=1)
    """How many it was fitted on."""
    right: int = Field(ge=0)
    """How many of them share enough with the truth."""
    brier_score: float = Field(ge=0, le=1)
    """Mean squared error of the bare score as a chance; 0.25 is a coin's."""
    brier_curve: float = Field(ge=0, le=1)
    """The same of this curve, each mask judged by a curve fitted without its case."""

    def confidence(self, score: float) -> float:
        """The chance, 0 to 1, that a mask with this score is right."""
        return _sigmoid(self.slope * _logit(score) + self.intercept)


class Calibration(Document):
    """The curves of one model, one for prompts and one for concepts."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    model_id: str
    right_iou: float = Field(default=RIGHT_IOU, gt=0, le=1)
    cases: int = Field(ge=1)
    """Validation cases it was measured on."""
    box: Curve | None = None
    """Masks prompted by a box; nothing where there were too few."""
    concept: Curve | None = None
    """Masks of a concept that the expert drew on the frame too."""


def calibration_path(home: Home, model_id: str) -> Path:
    """Where a model's calibration lies: beside the models, since their own folders are sealed."""
    return home.models / "calibration" / f"{model_id}.json"


def read_calibration(home: Home, model_id: str) -> Calibration | None:
    """A model's calibration, when it has been measured.

    Raises:
        DataError: the file is damaged or of another model.
    """
    path = calibration_path(home, model_id)
    if not path.exists():
        return None
    found = read_document(path, Calibration)
    if found.model_id != model_id:
        raise DataError(
            f"{path} is of model {found.model_id}; expected {model_id}. Run `make calibrate`"
        )
    return found


def write_calibration(home: Home, calibration: Calibration) -> Path:
    """Keep a model's calibration; functions that serve the model take it up."""
    path = calibration_path(home, calibration.model_id)
    write_document(path, calibration)
    return path


def fit(scores: Sequence[float], is_right: Sequence[bool], cases: Sequence[str]) -> Curve:
    """The curve through masks of known truth.

    Targets are Platt's, drawn in from 0 and 1 by the number of masks, so that no finite sample
    makes anything certain; a score that tells nothing gives a flat curve.

    Args:
        scores: The model's own, 0 to 1.
        is_right: Whether each mask was right.
        cases: The case of each mask; masks of one case are left out together.

    Raises:
        DataError: too few masks.

    Source: Platt 1999, Probabilistic Outputs for Support Vector Machines, section 2.2.
    """
    if len(scores) < MIN_MASKS:
        raise DataError(
            f"{len(scores)} masks with a known truth; expected {MIN_MASKS} or more to calibrate. "
            "Annotate more validation cases"
        )
    logits = np.array([_logit(score) for score in scores])
    right = np.array(is_right, dtype=bool)
    slope, intercept = _fitted(logits, right)
    names = np.array(cases)
    errors = []
    for case in np.unique(names):
        out = names == case
        left = ~out
        held = _fitted(logits[left], right[left]) if left.any() else (1.0, 0.0)
        chances = 1 / (1 + np.exp(-(held[0] * logits[out] + held[1])))
        errors.extend((chances - right[out]) ** 2)
    bare = np.clip(np.array(scores, dtype=float), 0, 1)
    return Curve(
        slope=slope,
        intercept=intercept,
        masks=len(scores),
        right=int(right.sum()),
        brier_score=float(np.mean((bare - right) ** 2)),
        brier_curve=float(np.mean(errors)),
    )


def _fitted(logits: Float64[np.ndarray, "n"], right: Bool[np.ndarray, "n"]) -> tuple[float, float]:
    n_right, n_wrong = int(right.sum()), int((~right).sum())
    target = np.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2))

    def loss(line: Float64[np.ndarray, "2"]) -> float:
        at = line[0] * logits + line[1]
        return float(np.mean(np.logaddexp(0, at) - target * at))

    found = minimize(
        loss,
        x0=np.array([1.0, 0.0]),
        method="L-BFGS-B",
        bounds=[(0, _STEEPEST), (-_STEEPEST, _STEEPEST)],
    )
    return float(found.x[0]), float(found.x[1])


def _logit(score: float) -> float:
    kept = min(max(score, _NEAR), 1 - _NEAR)
    return math.log(kept / (1 - kept))


def _sigmoid(at: float) -> float:
    return 1 / (1 + math.exp(-at)) if at >= 0 else math.exp(at) / (1 + math.exp(at))
