"""Masks as answers: from logits at image size, or from the parts of a concept's dense map.

Knows no model.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32
from scipy.ndimage import label

from casebook.protocols import Prediction
from segmenter.doubt import uncertainty_of

_DUPLICATE_IOU = 0.7
SPECK, SPECK_IN_TILES = 0.15, 0.05
"""Parts of a dense map smaller than this share of the largest are left out; in tiles finer ones are
seen, such as twigs behind a gap."""


def answer(
    logits: Float32[np.ndarray, "h w"], score: float, label: str | None, heads: Mapping[str, float]
) -> Prediction:
    """One mask with what is said of it."""
    score = min(1.0, max(0.0, score))
    return Prediction(
        bitmap=logits > 0,
        score=score,
        label=label,
        logits=logits,
        heads=dict(heads),
        uncertainty=uncertainty_of(score, logits),
    )


def pieces(
    logits: Float32[np.ndarray, "h w"],
    concept: str,
    heads: Mapping[str, float],
    speck: float = SPECK,
) -> list[Prediction]:
    """The connected parts of a concept's dense map, without specks, best first."""
    parts, count = label(logits > 0)
    shares = 1.0 / (1.0 + np.exp(-logits))
    areas_px = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    found = []
    for index in range(1, count + 1):
        if areas_px[index - 1] < speck * areas_px.max():
            continue
        bitmap = parts == index
        alone = np.where(bitmap, logits, np.minimum(logits, -np.abs(logits))).astype(np.float32)
        found.append(answer(alone, float(shares[bitmap].mean()), concept, heads))
    return sorted(found, key=lambda part: -part.score)


def is_same(one: Prediction, other: Prediction) -> bool:
    """Whether two masks are of one thing."""
    both = np.logical_and(one.bitmap, other.bitmap).sum()
    either = np.logical_or(one.bitmap, other.bitmap).sum()
    return bool(both > _DUPLICATE_IOU * either)
