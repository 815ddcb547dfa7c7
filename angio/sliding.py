"""The least and the greatest value in a window that slides along rows or columns.

What scipy.ndimage's `minimum_filter1d` and `maximum_filter1d` give (a test holds it to them), in a
few passes over whole rows: windows double in width at each, so that a wide one costs hardly more.
"""

import numpy as np
from jaxtyping import Shaped

Picture = Shaped[np.ndarray, "h w"]


def lowest(values: Picture, size_px: int, axis: int) -> Picture:
    """The least value within the window around each pixel; windows end at the borders.

    Args:
        values: Rows and columns, of unsigned integers or true and false.
        size_px: Width of the window.
        axis: 0 slides down the columns, 1 along the rows.
    """
    top = True if values.dtype == np.bool_ else np.iinfo(values.dtype).max
    return _slid(values, size_px, axis, np.minimum, top)


def highest(values: Picture, size_px: int, axis: int) -> Picture:
    """The greatest value within the window around each pixel; windows end at the borders.

    Args:
        values: Rows and columns, of unsigned integers or true and false.
        size_px: Width of the window.
        axis: 0 slides down the columns, 1 along the rows.
    """
    return _slid(values, size_px, axis, np.maximum, 0)


def _slid(values: Picture, size_px: int, axis: int, better: np.ufunc, beyond: int) -> Picture:
    before = size_px // 2
    padding = [(0, 0)] * values.ndim
    padding[axis] = (before, size_px - 1 - before)
    seen = np.pad(values, padding, constant_values=beyond)
    width = 1
    while width < size_px:
        step = min(width, size_px - width)
        ahead: list[slice] = [slice(None)] * values.ndim
        behind: list[slice] = [slice(None)] * values.ndim
        ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
        seen = better(seen[tuple(behind)], seen[tuple(ahead)])
        width += step
    return seen
