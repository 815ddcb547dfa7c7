"""Overlapping squares a frame is looked at in, and how what is said in each is put together.

A small model sees a whole frame so coarsely that thin vessels vanish; in parts it sees them. Knows
no model.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Float, Float32
from torch import Tensor

from segmenter.prompts import Window

OVERLAP = 0.15
"""Neighbouring tiles share at least this part of their side: what lies at an edge of one is seen
with its surroundings in the other."""
_FAINTEST = 0.02
"""Weight of a tile's outermost pixels; its middle has 1."""


def tiles_of(hw: tuple[int, int], share: float) -> tuple[Window, ...]:
    """Squares that cover an image, row by row, evenly spread and inside it where they fit.

    Args:
        share: Their side over the image's longer side.
    """
    size = max(1, math.ceil(share * max(hw)))
    rows, columns = (_starts(extent, size) for extent in hw)
    return tuple(Window(x, y, size) for y in rows for x in columns)


def _starts(extent: int, size: int) -> list[int]:
    if size >= extent:
        return [(extent - size) // 2]
    count = math.ceil((extent - size) / max(1.0, (1 - OVERLAP) * size)) + 1
    return [round(index * (extent - size) / (count - 1)) for index in range(count)]


def blended(
    logits: Float[Tensor, "t m m"], tiles: Sequence[Window], hw: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """The tiles' logits at image size; where several reach, the nearer its middle the more.

    Every pixel must lie in a tile.
    """
    height, width = hw
    size = tiles[0].size_px
    grown = F.interpolate(
        logits[:, None].float(), (size, size), mode="bilinear", align_corners=False
    )[:, 0].numpy(force=True)
    inwards = np.minimum(np.arange(size), np.arange(size)[::-1]) + 0.5
    ramp = np.maximum(inwards / (size / 2), _FAINTEST)
    weight = np.minimum(ramp[:, None], ramp[None, :]).astype(np.float32)
    total, weights = np.zeros(hw, dtype=np.float32), np.zeros(hw, dtype=np.float32)
    for tile, said in zip(tiles, grown, strict=True):
        top, left = max(tile.y, 0), max(tile.x, 0)
        bottom, right = min(tile.y + size, height), min(tile.x + size, width)
        here = np.s_[top:bottom, left:right]
        there = np.s_[top - tile.y : bottom - tile.y, left - tile.x : right - tile.x]
        total[here] += weight[there] * said[there]
        weights[here] += weight[there]
    return np.asarray(total / weights, dtype=np.float32)
