"""Fits the classifiers of `namer.py` on the frames a student was taught from. Training side.

The student itself draws the trees and, asked with the experts' boxes, the masks: what is learnt
from is what will be seen at the site. Convex, without a seed: the same frames give the same names.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from jaxtyping import Float64, Int64
from scipy.optimize import minimize

from casebook.catalogue import Catalogue
from casebook.labels import LabelSet
from casebook.protocols import Prompt
from casebook.regions import keep_main
from export.answers import StudentSegmenter
from export.infer import sight_of, tree_of
from export.namer import Linear, Names, side_of, standardised
from export.syllabus import Drawn, Page

MOST_FRAMES = 1000
"""Frames fitted on, at most."""
FEWEST = 8
"""Examples of which two classes at least must each have a quarter."""
_PENALTY = 0.03
"""Of the squared weights; on 180 + 40 ARCADE frames 0.01 to 0.1 made little difference."""
_STEPS = 200


@dataclass
class Examples:
    """Numbers with the class each belongs to."""

    numbers: list[Float64[np.ndarray, " f"]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    def add(self, numbers: Float64[np.ndarray, " f"], name: str) -> None:
        """One more."""
        self.numbers.append(numbers)
        self.classes.append(name)


def _coded(page: Page, labels: LabelSet) -> Iterator[tuple[Drawn, int]]:
    """The vessel segments a person drew, with their CASS numbers."""
    for one in page.drawn:
        code = labels.find(one.label).code
        if one.role == "segment" and code is not None and one.is_reviewed:
            yield one, code


def examples_of(
    segmenter: StudentSegmenter, catalogue: Catalogue, pages: Sequence[Page], labels: LabelSet
) -> tuple[Examples, Examples]:
    """Frames by coronary, and masks by segment."""
    sides, segments = Examples(), Examples()
    known = (page for page in pages if any(_coded(page, labels)))
    for page in islice(known, MOST_FRAMES):
        frame = catalogue.frame(page.ref)
        embedding = segmenter.embed(frame)
        view = frame.view or catalogue.get(page.ref.case_id).view
        sight = sight_of(segmenter, embedding, tree_of(segmenter, embedding), view)
        areas: Counter[str] = Counter()
        for one, code in _coded(page, labels):
            truth = one.bitmap
            areas[side_of(code)] += int(truth.sum())
            found = segmenter.predict(embedding, Prompt(box_xyxy=one.box))[0].bitmap
            mask = keep_main(found) if found.any() else truth
            segments.add(sight.mask_numbers(mask), one.label)
        sides.add(sight.frame_numbers, areas.most_common(1)[0][0])
    return sides, segments


def fit_linear(examples: Examples) -> Linear | None:
    """The classifier of some examples; nothing when they are too few or of one class."""
    counts = Counter(examples.classes)
    if sum(count >= FEWEST // 4 for count in counts.values()) < 2 or len(examples.classes) < FEWEST:
        return None
    classes = tuple(sorted(counts))
    numbers = np.stack(examples.numbers)
    known = np.isfinite(numbers)
    counted = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, numbers, 0.0).sum(axis=0) / counted
    spread = np.where(known, numbers - mean, 0.0)
    deviation = np.maximum(np.sqrt((spread * spread).sum(axis=0) / counted), 1e-3)
    mean, deviation = np.round(mean, 6), np.round(deviation, 6)
    weights, bias = _regression(
        standardised((numbers - mean) / deviation),
        np.array([classes.index(name) for name in examples.classes], dtype=np.int64),
    )
    return Linear(
        classes=classes,
        mean=tuple(mean.tolist()),
        deviation=tuple(deviation.tolist()),
        weights=tuple(tuple(row) for row in np.round(weights, 6).tolist()),
        bias=tuple(np.round(bias, 6).tolist()),
    )


def _regression(
    numbers: Float64[np.ndarray, "n f"], wanted: Int64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "k f"], Float64[np.ndarray, " k"]]:
    """Weights and bias of least cross-entropy with a penalty on the squared weights."""
    count, width = numbers.shape
    kinds = int(wanted.max()) + 1
    truth = np.eye(kinds)[wanted]

    def cost(flat: Float64[np.ndarray, " p"]) -> tuple[float, Float64[np.ndarray, " p"]]:
        weights, bias = flat[: kinds * width].reshape(kinds, width), flat[kinds * width :]
        logits = numbers @ weights.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        shares = np.exp(logits)
        shares /= shares.sum(axis=1, keepdims=True)
        loss = -np.log(np.maximum(shares[np.arange(count), wanted], 1e-12)).mean()
        gap = (shares - truth) / count
        slope = np.concatenate([(gap.T @ numbers + _PENALTY * weights).ravel(), gap.sum(axis=0)])
        return float(loss + _PENALTY * (weights * weights).sum() / 2), slope

    start = np.zeros(kinds * (width + 1))
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x
    return found[: kinds * width].reshape(kinds, width), found[kinds * width :]


def judged(linear: Linear | None, frozen: Examples) -> Linear | None:
    """The classifier with its accuracy on frozen frames; nothing when it is no better than none."""
    if linear is None or not frozen.classes:
        return None
    hits = 0
    for numbers, name in zip(frozen.numbers, frozen.classes, strict=True):
        found = linear.probabilities(numbers)
        hits += max(found, key=lambda one: found[one]) == name
    accuracy = hits / len(frozen.classes)
    commonest = Counter(frozen.classes).most_common(1)[0][1] / len(frozen.classes)
    if accuracy <= commonest:
        return None
    return linear.with_(accuracy=accuracy, commonest=commonest, cases=len(frozen.classes))


def fit_names(
    segmenter: StudentSegmenter,
    catalogue: Catalogue,
    pages: Sequence[Page],
    val: Sequence[Page],
    labels: LabelSet,
) -> Names | None:
    """The classifiers that are of use on the frozen frames; nothing when none is.

    Args:
        segmenter: the student as it will run.
        catalogue: holds the frames.
        pages: learnt from.
        val: frozen; they only judge.
        labels: of the bundle.
    """
    if not any(label.role == "segment" and label.code is not None for label in labels.masks):
        return None
    taught = examples_of(segmenter, catalogue, pages, labels)
    frozen = examples_of(segmenter, catalogue, val, labels)
    side, segment = (
        judged(fit_linear(one), other) for one, other in zip(taught, frozen, strict=True)
    )
    return Names(side=side, segment=segment) if side or segment else None
