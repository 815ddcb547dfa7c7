"""Outlines of bitmaps: rings of corners, with parts and holes, and the pixels they hold.

A pixel belongs to a ring that goes around its centre; pixel centres have whole coordinates. Rings
are filled by the even-odd rule, so that a ring within a ring is a hole. Knows no encoding.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from skimage.draw import polygon2mask
from skimage.measure import approximate_polygon, find_contours

from casebook import masks, regions
from casebook.errors import MaskError

Ring = tuple[tuple[float, float], ...]
"""Corners x, y in px; the last is joined to the first."""


def to_rings(bitmap: Bool[np.ndarray, "h w"]) -> tuple[Ring, ...]:
    """Rings around every region and every hole; `from_rings` gives the bitmap back exactly.

    Rings pass half-way between pixels that are set and those that are not, so corners have
    halves and may lie half a pixel outside the image.

    Raises:
        MaskError: nothing is set.
    """
    x1, y1, x2, y2 = masks.box_of(bitmap)
    padded = np.pad(bitmap[y1 : y2 + 1, x1 : x2 + 1], 1).astype(np.float64)
    return tuple(
        tuple((float(column) - 1 + x1, float(row) - 1 + y1) for row, column in contour[:-1])
        for contour in find_contours(padded, 0.5, fully_connected="high")
    )


def outline(bitmap: Bool[np.ndarray, "h w"]) -> Ring:
    """Corners x, y in px of a polygon around the largest region, at least three of them.

    Raises:
        MaskError: nothing is set.
    """
    x1, y1, x2, y2 = masks.box_of(bitmap)
    padded = np.pad(regions.keep_main(bitmap)[y1 : y2 + 1, x1 : x2 + 1], 1).astype(np.float64)
    longest = max(find_contours(padded, 0.5, fully_connected="high"), key=len)
    corners = approximate_polygon(longest, 0.7)[:-1]
    if len(corners) < 3:
        corners = longest[:-1]
    height, width = bitmap.shape
    return tuple(
        (
            float(np.clip(column - 1 + x1, 0, width - 1)),
            float(np.clip(row - 1 + y1, 0, height - 1)),
        )
        for row, column in corners
    )


def from_polygon(
    points_xy: Sequence[Sequence[float]], hw: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centre lies inside a polygon.

    Args:
        points_xy: corners in px; pixel centres have whole coordinates.
        hw: height and width of the image.

    Raises:
        MaskError: fewer than 3 corners or a number that is not finite.
    """
    corners = np.asarray(points_xy, dtype=np.float64)
    if corners.ndim != 2 or corners.shape[0] < 3 or corners.shape[1] != 2:
        raise MaskError(f"polygon of shape {corners.shape}; expected at least 3 corners x, y")
    if not np.isfinite(corners).all():
        raise MaskError("polygon has a corner that is not finite")
    filled: Bool[np.ndarray, "h w"] = polygon2mask(hw, corners[:, ::-1])
    return np.asarray(filled, dtype=bool)


def from_rings(
    rings_xy: Sequence[Sequence[Sequence[float]]], hw: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The pixels inside an odd number of rings: parts, holes, and islands in holes.

    Args:
        rings_xy: corners in px of each ring.
        hw: height and width of the image.

    Raises:
        MaskError: no ring, or one that is not a polygon.
    """
    if not rings_xy:
        raise MaskError("polygon has no ring; expected at least one")
    bitmap = np.zeros(hw, dtype=bool)
    for ring in rings_xy:
        bitmap ^= from_polygon(ring, hw)
    return bitmap


def from_coco_parts(
    parts_xyxy: Sequence[Sequence[float | int]], hw: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The bitmap of COCO's polygon segmentation: parts united, for COCO knows no holes.

    COCO puts a pixel's centre at its half: a square over pixel 0 goes from 0 to 1.

    Args:
        parts_xyxy: x, y, x, y … of each part, in COCO's px.
        hw: height and width of the image.

    Raises:
        MaskError: no part, an odd number of values, or fewer than 3 corners.

    Source: cocoapi, common/maskApi.c rleFrPoly.
    """
    if not parts_xyxy:
        raise MaskError("polygon has no part; expected at least one")
    bitmap = np.zeros(hw, dtype=bool)
    for part in parts_xyxy:
        if len(part) % 2:
            raise MaskError(f"polygon has {len(part)} numbers; expected x and y for each corner")
        corners = np.asarray(part, dtype=np.float64).reshape(-1, 2) - 0.5
        bitmap |= from_polygon(corners.tolist(), hw)
    return bitmap
