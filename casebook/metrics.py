"""How well two masks agree, and how sure we are of a mean. Knows no vessels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from skimage.morphology import skeletonize


def iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Intersection over union; 1 when both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 1.0


def dice(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Dice coefficient; 1 when both are empty."""
    total = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2 * int(np.count_nonzero(a & b)) / total if total else 1.0


def cldice(predicted: Bool[np.ndarray, "h w"], truth: Bool[np.ndarray, "h w"]) -> float:
    """Centreline Dice: harmonic mean of topology precision and sensitivity.

    Source: Shit et al., CVPR 2021, doi 10.1109/CVPR46437.2021.01629, equations 1 and 2.
    """
    if not predicted.any() or not truth.any():
        return 1.0 if not predicted.any() and not truth.any() else 0.0
    line_p, line_t = skeletonize(predicted), skeletonize(truth)
    precision = int((line_p & truth).sum()) / max(int(line_p.sum()), 1)
    sensitivity = int((line_t & predicted).sum()) / max(int(line_t.sum()), 1)
    both = precision + sensitivity
    return float(2 * precision * sensitivity / both) if both else 0.0


def hd95(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """95th percentile Hausdorff distance between borders, in px; infinite if one is empty."""
    if not a.any() or not b.any():
        return 0.0 if not a.any() and not b.any() else float("inf")
    border_a, border_b = a & ~ndimage.binary_erosion(a), b & ~ndimage.binary_erosion(b)
    to_b = ndimage.distance_transform_edt(~border_b)[border_a]
    to_a = ndimage.distance_transform_edt(~border_a)[border_b]
    return float(max(np.percentile(to_b, 95), np.percentile(to_a, 95)))


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

    For a paired comparison, give the differences. Source: Efron and Tibshirani, An Introduction
    to the Bootstrap (1993), chapter 13.

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
