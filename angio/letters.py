"""Islands of sharp ink: what drawn letters leave in a picture and optics do not.

A letter's edge falls within one pixel, an edge seen through focal spot, scatter and detector does
not. Knows no lines of text: those are in angio/burned_text.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int16, UInt8
from scipy import ndimage

from angio.sliding import highest, lowest

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in px, inclusive."""

NOISE_BLOCK_PX = 48
"""Side of the squares in which noise is measured."""
NOISE_QUANTILE, NOISE_PER_SIGMA = 0.4, 0.524
"""This share of the absolute differences of pure noise lies below so many standard deviations."""
STROKE_PX = 17
"""Ink is narrower than this: a step between two areas is no stroke."""
STROKE_SHARE = 0.8
"""How far ink stands out of its surroundings, in parts of the least edge."""
STRAIGHT_PX = 45
"""A straight edge longer than this is a collimator or a frame, not a letter."""


@dataclass(frozen=True)
class Pass:
    """How large an edge must be."""

    sigmas: float
    """In standard deviations of the noise of a difference."""
    levels: int
    """At least, in grey levels of 255."""
    neighbours: float
    """Share of the noisiest neighbouring square that counts: a quiet border is no measure."""


CLEAR, FAINT = Pass(4.5, 20, 0.7), Pass(3.2, 13, 1.0)


@dataclass(frozen=True)
class Ink:
    """The sharp pixels of one picture in one polarity, and the islands they form."""

    bright: bool
    faint: bool
    sharp: Bool[np.ndarray, "h w"]
    numbers: np.ndarray
    """The number of the island of every pixel, 0 outside."""
    boxes: tuple[Box, ...]
    """The box of island 1, 2 …"""
    values: UInt8[np.ndarray, "h w"]
    """The picture with ink bright."""


def _noise(across: Int16[np.ndarray, "h v"], hw: tuple[int, int]) -> Float32[np.ndarray, "r c"]:
    """Standard deviation of a difference between neighbours, square by square."""
    side = NOISE_BLOCK_PX
    rows, columns = -(-hw[0] // side), -(-hw[1] // side)
    padding = ((0, rows * side - across.shape[0]), (0, columns * side - across.shape[1]))
    squares = np.pad(np.abs(across), padding, mode="edge").reshape(rows, side, columns, side)
    flat = squares.swapaxes(1, 2).reshape(rows, columns, -1)
    position = int(NOISE_QUANTILE * side * side)
    sigma = np.partition(flat, position, axis=2)[..., position].astype(np.float32)
    return np.asarray(sigma / np.float32(NOISE_PER_SIGMA))


def _least_edge(
    noise: Float32[np.ndarray, "r c"], size: Pass, hw: tuple[int, int]
) -> Int16[np.ndarray, "h w"]:
    """The smallest difference that is an edge, pixel by pixel."""
    sigma = np.maximum(noise, size.neighbours * ndimage.maximum_filter(noise, 3))
    least = np.maximum(size.levels, size.sigmas * sigma).astype(np.int16)
    whole = np.repeat(np.repeat(least, NOISE_BLOCK_PX, 0), NOISE_BLOCK_PX, 1)
    return np.asarray(whole[: hw[0], : hw[1]])


def _standing_out(values: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """How far each pixel rises above everything wider than a stroke (white top-hat)."""
    floor = lowest(values, STROKE_PX, axis=0)
    floor = lowest(floor, STROKE_PX, axis=1)
    floor = highest(floor, STROKE_PX, axis=0)
    return np.asarray(values - highest(floor, STROKE_PX, axis=1))


def _bright_side(
    across: Int16[np.ndarray, "h v"],
    down: Int16[np.ndarray, "u w"],
    least: Int16[np.ndarray, "h w"],
) -> Bool[np.ndarray, "h w"]:
    """Pixels brighter than a neighbour by at least so much."""
    side = np.zeros(least.shape, dtype=bool)
    side[:, 1:] |= across > least[:, 1:]
    side[:, :-1] |= across < -least[:, 1:]
    side[1:] |= down > least[1:]
    side[:-1] |= down < -least[1:]
    return side


def _without_straight(sharp: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Without long edges along rows or columns, also slightly slanting ones."""
    for axis in (0, 1):
        wide = highest(sharp, 3, axis=1 - axis)
        straight = lowest(wide, STRAIGHT_PX, axis=axis)
        if straight.any():
            straight = highest(straight, STRAIGHT_PX, axis=axis)
            sharp = sharp & ~highest(straight, 3, axis=1 - axis)
    return sharp


def inks(picture: UInt8[np.ndarray, "h w"], polarities: tuple[bool, ...]) -> Iterator[Ink]:
    """The islands of sharp ink of a picture, clear ones and faint ones.

    Args:
        picture: 8 bits, at least 2 px a side.
        polarities: True for ink brighter than its surroundings, False for darker.
    """
    signed = picture.astype(np.int16)
    across, down = np.diff(signed, axis=1), np.diff(signed, axis=0)
    noise = _noise(across, picture.shape)
    for bright in polarities:
        values = picture if bright else np.asarray(255 - picture)
        out = _standing_out(values)
        sign = 1 if bright else -1
        for size in (CLEAR, FAINT):
            least = _least_edge(noise, size, picture.shape)
            side = _bright_side(sign * across, sign * down, least)
            sharp = _without_straight(side & (out > STROKE_SHARE * least))
            if sharp.any():
                numbers, _ = ndimage.label(sharp, structure=np.ones((3, 3)))
                boxes = tuple(
                    (cols.start, rows.start, cols.stop - 1, rows.stop - 1)
                    for rows, cols in ndimage.find_objects(numbers)
                )
                yield Ink(bright, size is FAINT, sharp, numbers, boxes, values)
