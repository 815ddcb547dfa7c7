"""Fits the regressions of `estimator.py`, and judges them on frozen lesions. Training side.

Least squares with a penalty; penalty, what the encoder's numbers count and QCA's share are those of
least error on patients left out of the fit. Without a seed: the same lesions give the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float64, Int64

from casebook.catalogue import Catalogue
from casebook.metrics import bootstrap_mean
from casebook.protocols import Segmenter
from export.answers import StudentSegmenter
from export.estimator import (
    FIGURES,
    UNITS,
    Estimator,
    Figure,
    Look,
    Regression,
    from_scale,
    to_scale,
)
from export.gates import LearntGate
from export.lesions import Example, examples_of, speaks
from export.namer import standardised
from export.syllabus import Page

FEWEST, FEWEST_PARTS = 40, 4
"""Looks at known lesions, and parts of patients, that a fit needs."""
_PARTS = 8
"""Patients are dealt to so many parts, each left out once."""
_SEEN_SCALES = (0.0, 0.1, 0.3)
"""What the encoder's numbers count beside the others'; 0 leaves them out."""
_PENALTIES = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Of the squared weights, in hundredths of the examples."""
_QCA_SHARES = (0.0, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class _Table:
    """Examples as matrices, each number at mean 0 and deviation 1."""

    numbers: Float64[np.ndarray, "n f"]
    seen: Float64[np.ndarray, "n c"]
    known: Float64[np.ndarray, "n 3"]
    qca: Float64[np.ndarray, "n 3"]
    """Not numbers where it was refused."""
    weights: Float64[np.ndarray, " n"]
    parts: Int64[np.ndarray, " n"]
    """Of the patient each is of."""

    def inputs(self, rows: Bool[np.ndarray, " n"], scale: float) -> Float64[np.ndarray, "m k"]:
        """The numbers of some rows, with what the encoder saw where that counts."""
        if not scale:
            return np.asarray(self.numbers[rows])
        return np.hstack([self.numbers[rows], scale * self.seen[rows]])


def _spread(numbers: Float64[np.ndarray, "n f"]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each number, where it is known."""
    known = np.isfinite(numbers)
    counted = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, numbers, 0.0).sum(axis=0) / counted
    away = np.where(known, numbers - mean, 0.0)
    deviation = np.maximum(np.sqrt((away * away).sum(axis=0) / counted), 1e-3)
    return np.round(mean, 6), np.round(deviation, 6)


def in_units(figure: Figure, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Figures in points or px, of those as they are learnt."""
    return np.array([from_scale(figure, float(value)) for value in values], dtype=np.float64)


def _qca_of(look: Look) -> list[float]:
    if look.lesion is None:
        return [np.nan] * 3
    return [to_scale(figure, getattr(look.lesion, figure)) for figure in FIGURES]


def _solved(
    numbers: Float64[np.ndarray, "n f"],
    wanted: Float64[np.ndarray, " n"],
    weights: Float64[np.ndarray, " n"],
    penalty: float,
) -> tuple[Float64[np.ndarray, " f"], float]:
    """Weights and bias of least squares with a penalty on the squared weights."""
    bias = float(np.average(wanted, weights=weights))
    counted = numbers * weights[:, None]
    ridge = penalty / 100 * weights.sum() * np.eye(numbers.shape[1])
    found = np.linalg.solve(numbers.T @ counted + ridge, counted.T @ (wanted - bias))
    return np.asarray(found), bias


def _mixed(
    told: Float64[np.ndarray, " n"], qca: Float64[np.ndarray, " n"], share: float
) -> Float64[np.ndarray, " n"]:
    both = share * np.nan_to_num(qca) + (1 - share) * told
    return np.asarray(np.where(np.isfinite(qca), both, told))


def _fit_figure(table: _Table, figure: Figure) -> Regression | None:
    """One figure; its settings are those of least error on patients left out of the fit."""
    column = FIGURES.index(figure)
    there = np.isfinite(table.known[:, column])
    if there.sum() < FEWEST or len(np.unique(table.parts[there])) < FEWEST_PARTS:
        return None
    wanted, weights = table.known[there, column], table.weights[there]
    low, high = float(wanted.min()), float(wanted.max())
    qca, parts = table.qca[there, column], table.parts[there]
    true = in_units(figure, wanted)
    errors: dict[tuple[float, float, float], float] = {}
    for scale, penalty in product(_SEEN_SCALES, _PENALTIES):
        numbers = table.inputs(there, scale)
        told = np.zeros(len(wanted))
        for part in np.unique(parts):
            out = parts == part
            slope, bias = _solved(numbers[~out], wanted[~out], weights[~out], penalty)
            told[out] = bias + numbers[out] @ slope
        for share in _QCA_SHARES:
            mixed = in_units(figure, np.clip(_mixed(told, qca, share), low, high))
            error = float(np.average(np.abs(mixed - true), weights=weights))
            errors[(scale, penalty, share)] = error
    scale, penalty, share = min(errors, key=lambda one: errors[one])
    slope, bias = _solved(table.inputs(there, scale), wanted, weights, penalty)
    n_plain = table.numbers.shape[1]
    return Regression(
        weights=tuple(np.round(slope[:n_plain], 6).tolist()),
        seen_weights=tuple(np.round(scale * slope[n_plain:], 6).tolist()),
        bias=round(bias, 6),
        qca_share=share,
        low=low,
        high=high,
        usual=float(np.median(wanted)),
    )


def fit_estimator(examples: Sequence[Example]) -> Estimator | None:
    """The regressions of some examples; nothing when they are too few."""
    if not examples:
        return None
    numbers = np.stack([one.look.numbers for one in examples])
    seen = np.stack([one.look.seen for one in examples])
    (mean, deviation), (seen_mean, seen_deviation) = _spread(numbers), _spread(seen)
    patients = sorted({one.patient for one in examples})
    table = _Table(
        standardised((numbers - mean) / deviation),
        standardised((seen - seen_mean) / seen_deviation),
        np.stack([one.known for one in examples]),
        np.array([_qca_of(one.look) for one in examples]),
        np.array([one.weight for one in examples]),
        np.array([patients.index(one.patient) % _PARTS for one in examples], dtype=np.int64),
    )
    found = {figure: _fit_figure(table, figure) for figure in FIGURES}
    if not any(found.values()):
        return None
    return Estimator(
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        seen_mean=tuple(seen_mean.tolist()),
        seen_deviation=tuple(seen_deviation.tolist()),
        stenosis_pct=found["stenosis_pct"],
        mld_px=found["mld_px"],
        rvd_px=found["rvd_px"],
    )


def judged(
    estimator: Estimator, frozen: Sequence[Example], figure: Figure, fewest: int
) -> LearntGate | None:
    """One figure on frozen lesions, beside always saying the usual and beside QCA.

    Args:
        estimator: fitted on others.
        frozen: with the experts' lesions.
        figure: which.
        fewest: lesions that both comparisons need.

    Returns:
        Nothing when it was not learnt, or no lesion is known.
    """
    one: Regression | None = getattr(estimator, figure)
    column = FIGURES.index(figure)
    shown = [example for example in frozen if np.isfinite(example.known[column])]
    if one is None or not shown:
        return None
    true = in_units(figure, np.array([example.known[column] for example in shown]))
    told = np.array([estimator.of(figure, example.look) for example in shown], dtype=np.float64)
    qca = np.array(
        [
            np.nan if example.look.lesion is None else getattr(example.look.lesion, figure)
            for example in shown
        ]
    )
    error, usual = np.abs(told - true), np.abs(from_scale(figure, one.usual) - true)
    of_qca = np.abs(qca - true)
    measured = np.isfinite(qca)
    cases = np.array([example.case_id for example in shown])
    beyond_usual = _upper(error - usual, cases)
    beyond_qca = _upper((error - of_qca)[measured], cases[measured]) if measured.any() else None
    enough = int(measured.sum()) >= fewest
    return LearntGate(
        figure=figure,
        unit=UNITS[figure],
        lesions=len(shown),
        error=float(error.mean()),
        error_of_usual=float(usual.mean()),
        beyond_usual=beyond_usual,
        measured=int(measured.sum()),
        error_where_measured=float(error[measured].mean()) if measured.any() else None,
        error_of_qca=float(of_qca[measured].mean()) if measured.any() else None,
        beyond_qca=beyond_qca,
        is_shipped=enough and beyond_usual < 0 and beyond_qca is not None and beyond_qca < 0,
    )


def _upper(gain: Float64[np.ndarray, " n"], cases: np.ndarray) -> float:
    """Upper end of the 95 % interval of the mean difference, over cases."""
    return bootstrap_mean([float(gain[cases == one].mean()) for one in np.unique(cases)]).high


def kept(estimator: Estimator, gates: Sequence[LearntGate]) -> Estimator | None:
    """The estimator without the figures that did not pass; nothing when none did."""
    passed = {gate.figure for gate in gates if gate.is_shipped}
    if not passed:
        return None
    slim = estimator.with_(**{figure: None for figure in FIGURES if figure not in passed})
    left: list[Regression | None] = [getattr(slim, figure) for figure in FIGURES]
    if not any(one is not None and one.seen_weights for one in left):
        return slim.with_(seen_mean=(), seen_deviation=())
    return slim


def learn(
    segmenter: StudentSegmenter,
    teacher: Segmenter,
    catalogue: Catalogue,
    pages: Sequence[Page],
    val: Sequence[Page],
    fewest: int,
) -> tuple[Estimator | None, tuple[LearntGate, ...]]:
    """What a bundle may say of lesions, and how every figure did; no estimator when none passed.

    Args:
        segmenter: the student as it will run.
        teacher: whose heads, where it has any, tell of lesions nobody drew.
        catalogue: holds the frames.
        pages: learnt from.
        val: frozen; they only judge.
        fewest: lesions the comparisons need.
    """
    if not any(one.role == "segment" for page in pages for one in page.drawn):
        return None, ()
    headed = teacher if speaks(teacher, catalogue, pages) else None
    estimator = fit_estimator(examples_of(segmenter, catalogue, pages, headed, is_taught=True))
    if estimator is None:
        return None, ()
    frozen = examples_of(segmenter, catalogue, val)
    found = [judged(estimator, frozen, figure, fewest) for figure in FIGURES]
    gates = tuple(one for one in found if one is not None)
    return kept(estimator, gates), gates


def judged_again(
    gates: Sequence[LearntGate],
    segmenter: StudentSegmenter,
    catalogue: Catalogue,
    val: Sequence[Page],
    fewest: int,
) -> tuple[LearntGate, ...]:
    """The learnt figures of a bundle measured now; those that were left out as they were then."""
    estimator = segmenter.estimator
    if estimator is None:
        return tuple(gates)
    frozen = examples_of(segmenter, catalogue, val)
    return tuple(judged(estimator, frozen, one.figure, fewest) or one for one in gates)
