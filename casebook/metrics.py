"""How well masks agree, and how sure we are of a mean. Knows no vessels.

Two empty masks agree: overlaps are 1, distances 0. One empty mask agrees with nothing: overlaps are
0 and the Hausdorff distance is infinite. Only the box around the masks is looked at.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

Bitmap = Bool[np.ndarray, "h w"]


def _box(bitmap: Bitmap) -> tuple[slice, slice] | None:
    """Rows and columns that hold a mask; nothing when it is empty."""
    rows = np.flatnonzero(bitmap.any(axis=1))
    if not len(rows):
        return None
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(bitmap[top:bottom].any(axis=0))
    return slice(top, bottom), slice(int(columns[0]), int(columns[-1]) + 1)


def iou(a: Bitmap, b: Bitmap) -> float:
    """Intersection over union; 1 when both are empty."""
    shared = int(np.count_nonzero(a & b))
    union = int(np.count_nonzero(a)) + int(np.count_nonzero(b)) - shared
    return shared / union if union else 1.0


def dice(a: Bitmap, b: Bitmap) -> float:
    """Dice coefficient; 1 when both are empty."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def _on_line(line_of: Bitmap, other: Bitmap) -> float:
    """Share of a mask's skeleton that lies in another mask."""
    box = _box(line_of)
    if box is None:
        return 0.0
    # A frame of zeros keeps the skeleton of a mask that touches its own box as it was.
    line = skeletonize(np.pad(line_of[box], 1))[1:-1, 1:-1]
    return int(np.count_nonzero(line & other[box])) / max(int(np.count_nonzero(line)), 1)


def cldice(predicted: Bitmap, truth: Bitmap) -> float:
    """Centreline Dice: harmonic mean of topology precision and sensitivity.

    1 when both are empty, 0 when one is. Source: Shit et al., CVPR 2021, doi
    10.1109/CVPR46437.2021.01629, equations 1 and 2.
    """
    if not predicted.any() and not truth.any():
        return 1.0
    precision, sensitivity = _on_line(predicted, truth), _on_line(truth, predicted)
    both = precision + sensitivity
    return float(2 * precision * sensitivity / both) if both else 0.0


def _border(bitmap: Bitmap, spacing_mm: tuple[float, float]) -> Float64[np.ndarray, "n 2"]:
    """Places of a mask's pixels of which a neighbour by edge is not set; the image's edge is one.

    Rows and columns times their spacing.
    """
    box = _box(bitmap)
    if box is None:
        return np.empty((0, 2))
    framed = np.pad(bitmap[box], 1)
    inner = framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    places = np.argwhere(framed[1:-1, 1:-1] & ~inner)
    places += np.array([box[0].start, box[1].start])
    return np.asarray(places * np.array(spacing_mm, dtype=np.float64))


def _distances(
    a: Bitmap, b: Bitmap, spacing_mm: tuple[float, float]
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " m"]]:
    """From each border pixel of one mask to the nearest of the other, both ways."""
    one, other = _border(a, spacing_mm), _border(b, spacing_mm)
    if not len(one) or not len(other):
        return np.full(len(one), np.inf), np.full(len(other), np.inf)
    to_other = cKDTree(other, balanced_tree=False, compact_nodes=False).query(one)[0]
    to_one = cKDTree(one, balanced_tree=False, compact_nodes=False).query(other)[0]
    return to_other, to_one


def hd95(a: Bitmap, b: Bitmap, *, spacing_mm: tuple[float, float] | None = None) -> float:
    """95th percentile Hausdorff distance between borders; infinite if one mask is empty.

    The percentile is taken each way and the larger one counts. Source: Huttenlocher et al., IEEE
    TPAMI 15 (1993) 850–863, the partial distance of section II.

    Args:
        a: One mask.
        b: The other.
        spacing_mm: Of rows and columns, for an answer in mm; else it is in px.
    """
    to_b, to_a = _distances(a, b, spacing_mm or (1.0, 1.0))
    if not len(to_b) and not len(to_a):
        return 0.0
    if not len(to_b) or not len(to_a):
        return float("inf")
    return float(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))


def surface_dice(
    a: Bitmap, b: Bitmap, tolerance: float, *, spacing_mm: tuple[float, float] | None = None
) -> float:
    """Share of both borders that lies within a tolerance of the other border.

    1 when both masks are empty, 0 when one is. Borders are counted by pixel. Source: Nikolov et
    al., J Med Internet Res 23 (2021) e26151, doi 10.2196/26151.

    Args:
        a: One mask.
        b: The other.
        tolerance: Largest distance that counts as agreement: mm with a spacing, else px.
        spacing_mm: Of rows and columns.

    Raises:
        ValueError: the tolerance is negative or no number.
    """
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance {tolerance}; expected a distance from 0; give one")
    to_b, to_a = _distances(a, b, spacing_mm or (1.0, 1.0))
    total = len(to_b) + len(to_a)
    near = int(np.count_nonzero(to_b <= tolerance)) + int(np.count_nonzero(to_a <= tolerance))
    return near / total if total else 1.0


def confusion(
    predicted: Integer[np.ndarray, "*any"], truth: Integer[np.ndarray, "*any"], n_classes: int
) -> Int64[np.ndarray, "k k"]:
    """Number of places of every true class (row) that were given every class (column).

    Args:
        predicted: A class for every pixel, or for every segment.
        truth: The true classes.
        n_classes: Classes are numbered from 0 to one below this.

    Raises:
        ValueError: a class outside that range.
    """
    for name, values in (("predicted", predicted), ("true", truth)):
        if values.size and (int(values.min()) < 0 or int(values.max()) >= n_classes):
            raise ValueError(
                f"{name} classes from {values.min()} to {values.max()}; expected 0 to "
                f"{n_classes - 1}; check the number of classes"
            )
    pair = truth.astype(np.int64) * n_classes + predicted
    counts = np.bincount(pair.ravel(), minlength=n_classes**2)
    return counts.reshape(n_classes, n_classes).astype(np.int64)


@dataclass(frozen=True)
class ClassAgreement:
    """One class of a confusion matrix; a share is none where it would divide by nothing."""

    precision: float | None
    recall: float | None
    iou: float | None
    n: int
    """Places of this class in truth."""


def by_class(matrix: Int64[np.ndarray, "k k"]) -> tuple[ClassAgreement, ...]:
    """Precision, recall and IoU of every class of a confusion matrix."""

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    hit, given, true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return tuple(
        ClassAgreement(share(h, g), share(h, t), share(h, g + t - h), t)
        for h, g, t in zip(hit.tolist(), given.tolist(), true.tolist(), strict=True)
    )


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(
    values: Sequence[float], *, seed: int = 0, level: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Mean with its percentile bootstrap interval over cases.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.

    Raises:
        ValueError: there are no values.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise ValueError("no values to average")
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, sample.size, size=(resamples, sample.size))
    means = sample[draws].mean(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high), int(sample.size))


def bootstrap_gain(
    candidate: Sequence[float],
    incumbent: Sequence[float],
    *,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Mean gain of one method over another on the same cases, whole pairs drawn together.

    Raises:
        ValueError: the cases are not the same in number, or there are none.
    """
    if len(candidate) != len(incumbent):
        raise ValueError(
            f"{len(candidate)} and {len(incumbent)} values; a paired comparison needs one of each "
            "for every case"
        )
    gains = np.asarray(candidate, dtype=np.float64) - np.asarray(incumbent, dtype=np.float64)
    return bootstrap_mean(gains.tolist(), seed=seed, level=level, resamples=resamples)
