"""A vessel's mask that is broken into pieces, put together again.

A model that finds no lumen where a lesion is tight leaves the vessel in two pieces, of which either
alone is a healthy vessel without its lesion. Pieces that lie end to end are joined along the
darkest way between them. Knows no diameters or millimetres.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8, UInt16
from scipy import ndimage

from angio.routes import cheapest

PIECE_MIN_PX = 25
"""Area of the smallest piece that is no speck."""
GAP_WIDTHS = 4.0
"""Longest gap that is closed, in widths of the vessel: about the length of a tight lesion."""
TURN_MAX_DEG = 60.0
"""Most that a piece may point away from the gap."""
TOUCHING_PX = 3.0
"""Across so short a gap a piece's own direction says nothing."""
AXIS_WIDTHS = 2.0
"""Part of a piece, in widths, that tells where its end points."""
DARKNESS_WEIGHT = 10.0
"""What a step over the background costs, with a step along the vessel costing one."""

_EIGHT = np.ones((3, 3), dtype=bool)
_CROSS = ndimage.generate_binary_structure(2, 1)


@dataclass(frozen=True)
class Joined:
    """A mask in one piece."""

    bitmap: Bool[np.ndarray, "h w"]
    bridge: Bool[np.ndarray, "h w"]
    """What was added between the pieces."""


def _pointing(
    piece: Int64[np.ndarray, "n 2"], end: Int64[np.ndarray, "2"], reach_px: float
) -> Float64[np.ndarray, "2"]:
    """Unit vector along the piece's course at one of its ends, outwards."""
    away = piece - end
    near = piece[(away**2).sum(axis=1) <= reach_px**2]
    offsets = near - near.mean(axis=0)
    axis = np.linalg.svd(offsets, full_matrices=False)[2][0]
    return np.asarray(axis if axis @ (end - near.mean(axis=0)) >= 0 else -axis)


def _continues(
    one: Int64[np.ndarray, "n 2"],
    other: Int64[np.ndarray, "m 2"],
    ends: tuple[Int64[np.ndarray, "2"], Int64[np.ndarray, "2"]],
    width_px: float,
) -> bool:
    """Whether two pieces point at each other across the gap between their nearest pixels."""
    gap = (ends[1] - ends[0]).astype(np.float64)
    length = float(np.linalg.norm(gap))
    if length <= TOUCHING_PX:
        return True
    reach, least = AXIS_WIDTHS * width_px, np.cos(np.radians(TURN_MAX_DEG))
    return bool(
        _pointing(one, ends[0], reach) @ gap >= least * length
        and _pointing(other, ends[1], reach) @ -gap >= least * length
    )


def _cost(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"] | None,
    bitmap: Bool[np.ndarray, "h w"],
) -> Float64[np.ndarray, "h w"]:
    """What a step through each pixel costs: little where it is as dark as the vessel."""
    if pixels is None:
        return np.where(bitmap, 1.0, 1.0 + DARKNESS_WEIGHT)
    smooth = ndimage.gaussian_filter(pixels.astype(np.float64), 1.0)
    vessel = float(np.median(smooth[bitmap]))
    around = ndimage.binary_dilation(bitmap, _EIGHT, iterations=8)
    around &= ~ndimage.binary_dilation(bitmap, _EIGHT, iterations=3)
    beside = float(np.median(smooth[around])) if around.any() else vessel + 1.0
    share = np.clip((smooth - vessel) / max(beside - vessel, 1e-9), 0.0, 1.0)
    return np.where(bitmap, 1.0, 1.0 + DARKNESS_WEIGHT * share)


def _facing(
    one: Bool[np.ndarray, "h w"], other: Bool[np.ndarray, "h w"]
) -> tuple[Int64[np.ndarray, "2"], Int64[np.ndarray, "2"]]:
    """The middles of the two ends that face each other."""
    ends = []
    for piece, opposite in ((one, other), (other, one)):
        at = np.argwhere(piece)
        away = ndimage.distance_transform_edt(~opposite)[piece]
        end = at[away <= away.min() + 1]
        ends.append(end[((end - end.mean(axis=0)) ** 2).sum(axis=1).argmin()].astype(np.int64))
    return ends[0], ends[1]


def joined(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"] | None,
    bitmap: Bool[np.ndarray, "h w"],
) -> Joined:
    """The largest piece of a mask with the pieces that continue it, in one.

    Args:
        pixels: The frame, vessels dark; without one gaps are closed by straight lines.
        bitmap: The vessel, not empty.
    """
    numbered, count = ndimage.label(bitmap, structure=_EIGHT)
    bridge = np.zeros_like(bitmap)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    sizes[0] = 0
    main = np.asarray(numbered == int(np.argmax(sizes)))
    left = [
        n for n in range(1, count + 1) if sizes[n] >= PIECE_MIN_PX and not main[numbered == n].any()
    ]
    if not left:
        return Joined(main, bridge)
    width_px = 2.0 * float(np.percentile(ndimage.distance_transform_edt(main)[main], 95))
    cost = _cost(pixels, bitmap)
    while left:
        away = ndimage.distance_transform_edt(~main)
        pieces = {number: np.argwhere(numbered == number) for number in left}
        gaps = {number: float(away[tuple(at.T)].min()) for number, at in pieces.items()}
        for number in sorted(left, key=lambda one: gaps[one]):
            if gaps[number] > GAP_WIDTHS * width_px:
                return Joined(main, bridge)
            ends = _facing(main, numbered == number)
            if _continues(np.argwhere(main), pieces[number], ends, width_px):
                break
        else:
            return Joined(main, bridge)
        course = np.zeros_like(main)
        course[tuple(cheapest(cost, *ends).T)] = True
        added = ndimage.binary_dilation(course, _CROSS) & ~main & (numbered != number)
        bridge |= added
        main = main | added | (numbered == number)
        left.remove(number)
    return Joined(main, bridge)
