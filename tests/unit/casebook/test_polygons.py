"""Outlines with parts and holes, and back, exactly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from casebook import masks, metrics, polygons
from casebook.errors import MaskError

filled = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24))).filter(np.any)


@given(bitmap=filled)
def test_rings_give_the_bitmap_back_with_parts_holes_and_islands(bitmap: np.ndarray) -> None:
    assert np.array_equal(polygons.from_rings(polygons.to_rings(bitmap), bitmap.shape), bitmap)


def test_one_pixel_is_a_diamond_around_its_centre() -> None:
    bitmap = np.zeros((3, 4), dtype=bool)
    bitmap[1, 2] = True
    (ring,) = polygons.to_rings(bitmap)
    assert sorted(ring) == [(1.5, 1.0), (2.0, 0.5), (2.0, 1.5), (2.5, 1.0)]


def test_a_ring_in_a_ring_is_a_hole_and_a_third_an_island() -> None:
    def square(low: float, high: float) -> list[list[float]]:
        return [[low, low], [high, low], [high, high], [low, high]]

    rings = [square(0.5, 7.5), square(1.5, 6.5), square(2.5, 5.5)]
    assert polygons.from_rings(rings, (9, 9)).sum() == 49 - 25 + 9


# pycocotools 2.0 asks numpy for a view in a way numpy 2 will stop answering.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@given(
    corner=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    side=st.tuples(st.integers(1, 8), st.integers(1, 8)),
)
def test_a_coco_rectangle_covers_what_pycocotools_covers(
    corner: tuple[int, int], side: tuple[int, int]
) -> None:
    (x, y), (width, height) = corner, side
    part = [x, y, x + width, y, x + width, y + height, x, y + height]
    theirs = coco.decode(coco.merge(coco.frPyObjects([part], 20, 20))).astype(bool)
    ours = polygons.from_coco_parts([part], (20, 20))
    assert np.array_equal(ours, theirs)
    assert np.array_equal(polygons.from_coco_parts([part, part], (20, 20)), theirs)


@pytest.mark.parametrize(
    ("parts", "reason"),
    [([], "no part"), ([[1.0, 2.0, 3.0]], "3 numbers"), ([[1.0, 2.0, 3.0, 4.0]], "at least 3")],
)
def test_damaged_coco_polygons_are_refused(parts: list[list[float]], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        polygons.from_coco_parts(parts, (5, 5))


def test_nothing_has_no_ring_and_no_ring_no_pixels() -> None:
    with pytest.raises(MaskError, match="empty"):
        polygons.to_rings(np.zeros((4, 4), dtype=bool))
    with pytest.raises(MaskError, match="no ring"):
        polygons.from_rings([], (4, 4))


def test_a_polygon_covers_the_pixels_inside() -> None:
    square = polygons.from_polygon([[1.0, 1.0], [3.0, 1.0], [3.0, 2.0], [1.0, 2.0]], (5, 6))
    assert masks.box_of(square) == (1, 1, 3, 2)
    assert square.sum() == 6


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ([[0.0, 0.0], [1.0, 1.0]], "at least 3"),
        ([[0.0, 0.0, 1.0]] * 3, "at least 3"),
        ([[0.0, 0.0], [1.0, 1.0], [float("inf"), 2.0]], "finite"),
    ],
)
def test_a_polygon_without_area_is_refused(corners: list[list[float]], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        polygons.from_polygon(corners, (5, 5))


@given(bitmap=filled)
def test_an_outline_is_a_polygon_within_the_image(bitmap: np.ndarray) -> None:
    corners = np.array(polygons.outline(bitmap))
    height, width = bitmap.shape
    assert len(corners) >= 3
    assert (corners >= 0).all()
    assert (corners <= [width - 1, height - 1]).all()


def test_an_outline_follows_a_disc() -> None:
    rows, columns = np.ogrid[:60, :60]
    disc = (rows - 30) ** 2 + (columns - 25) ** 2 < 20**2
    assert metrics.iou(polygons.from_polygon(polygons.outline(disc), disc.shape), disc) > 0.95


def test_nothing_has_no_outline() -> None:
    with pytest.raises(MaskError, match="empty"):
        polygons.outline(np.zeros((4, 4), dtype=bool))
