"""Tidying a predicted bitmap. Knows no model and no encoding."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from casebook import masks

_EIGHT = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a corner belong together: a thin vessel is often diagonal."""


def keep_main(
    bitmap: Bool[np.ndarray, "h w"], inside_xy: Sequence[tuple[float | int, float | int]] = ()
) -> Bool[np.ndarray, "h w"]:
    """The regions that hold a click, else the largest one.

    Args:
        bitmap: the mask to tidy.
        inside_xy: clicks inside the object, in px.
    """
    if not bitmap.any():
        return bitmap
    x1, y1, x2, y2 = masks.box_of(bitmap)
    numbered, count = ndimage.label(bitmap[y1 : y2 + 1, x1 : x2 + 1], structure=_EIGHT)
    if count == 1:
        return bitmap
    wanted = set()
    for x, y in inside_xy:
        column, row = round(x) - x1, round(y) - y1
        if 0 <= row < numbered.shape[0] and 0 <= column < numbered.shape[1]:
            wanted.add(int(numbered[row, column]))
    wanted.discard(0)
    if not wanted:
        wanted = {int(np.argmax(np.bincount(numbered.ravel())[1:])) + 1}
    kept = np.zeros_like(bitmap)
    kept[y1 : y2 + 1, x1 : x2 + 1] = np.isin(numbered, sorted(wanted))
    return kept


def fill_holes(bitmap: Bool[np.ndarray, "h w"], max_px: int) -> Bool[np.ndarray, "h w"]:
    """The bitmap with every enclosed hole of at most `max_px` pixels filled."""
    if max_px < 1 or not bitmap.any():
        return bitmap
    x1, y1, x2, y2 = masks.box_of(bitmap)
    crop = bitmap[y1 : y2 + 1, x1 : x2 + 1]
    numbered, count = ndimage.label(ndimage.binary_fill_holes(crop) & ~crop)
    if count == 0:
        return bitmap
    sizes = np.bincount(numbered.ravel())
    small = [number for number in range(1, count + 1) if sizes[number] <= max_px]
    filled = bitmap.copy()
    filled[y1 : y2 + 1, x1 : x2 + 1] |= np.isin(numbered, small)
    return filled
