"""Centrelines and widths of drawn vessels whose geometry is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from angio import vessels
from angio.vessels import Centreline, course, solid
from casebook.errors import QcaError


def bar(width: int, length: int, angle_deg: float = 0.0, hw: int = 200) -> np.ndarray:
    """A straight vessel through the middle of the picture."""
    y, x = np.mgrid[:hw, :hw] - (hw - 1) / 2
    a = np.radians(angle_deg)
    along, across = np.cos(a) * x + np.sin(a) * y, -np.sin(a) * x + np.cos(a) * y
    return (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(6, 18), angle=st.floats(0, 180))
def test_a_straight_vessel_has_its_length_and_width(width: int, angle: float) -> None:
    bitmap = bar(width, 120, angle)
    line, widths = course(bitmap)
    middle = widths[len(widths) // 4 : -len(widths) // 4]
    # A corner of a slanting end may win over its middle: half the width at most.
    assert line.length_px == pytest.approx(120, abs=max(6, width / 2))
    assert np.median(middle) == pytest.approx(width, abs=1.3)
    np.testing.assert_allclose(np.linalg.norm(line.normals_xy, axis=1), 1.0, atol=1e-6)


def test_an_arc_is_followed_along_its_middle() -> None:
    y, x = np.mgrid[:200, :200] - 100.0
    radius = np.hypot(x, y)
    line, _ = course((np.abs(radius - 70) <= 5) & (y < 0))
    away = np.abs(np.hypot(*(line.points_xy - 100.0).T) - 70)
    assert away[20:-20].max() < 1.5
    assert line.length_px == pytest.approx(np.pi * 70, rel=0.05)


def test_side_branches_and_specks_are_left_out() -> None:
    bitmap = bar(8, 140) | (bar(4, 30, 90) & (np.mgrid[:200, :200][0] > 99))
    bitmap[10:14, 10:14] = True
    line, _ = course(bitmap)
    assert line.length_px == pytest.approx(140, abs=6)
    assert np.abs(line.points_xy[:, 1] - 99.5).max() < 3


def test_steps_are_even_and_in_the_picture() -> None:
    line, _ = course(bar(6, 100, 33))
    steps = np.diff(line.along_px)
    assert steps.min() > 0.3
    assert steps.max() < 0.7
    assert line.points_xy.min() >= 0
    assert line.points_xy.max() <= 199


@pytest.mark.parametrize(
    "bitmap",
    [
        pytest.param(np.zeros((20, 20), dtype=bool), id="empty"),
        pytest.param(np.pad(np.ones((2, 2), dtype=bool), 9), id="a dot"),
        pytest.param(np.pad(np.ones((6, 6), dtype=bool), 9), id="a square"),
    ],
)
def test_what_is_no_vessel_is_refused(bitmap: np.ndarray) -> None:
    with pytest.raises(QcaError):
        course(bitmap)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_pinholes_are_filled_as_scipy_fills_them(seed: int, share: float) -> None:
    bitmap = np.random.default_rng(seed).random((23, 17)) < share
    assert np.array_equal(solid(bitmap), ndimage.binary_fill_holes(bitmap))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_mask_is_read_between_its_pixels_as_scipy_reads_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bitmap = rng.random((11, 9)) < 0.5
    places = rng.uniform(-3, 14, (5, 40, 2))
    places[0] = np.round(places[0])  # on pixel centres, the outermost and those beyond
    ours = vessels._between_pixels(bitmap, places[..., 0], places[..., 1])
    theirs = ndimage.map_coordinates(
        bitmap.astype(np.float64), [places[..., 1], places[..., 0]], order=1
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_a_section_looked_at_in_two_parts_shows_what_the_whole_one_shows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    branching = bar(14, 150) | bar(5, 90, 70) | bar(3, 150, 20)
    _, in_parts = course(branching)
    monkeypatch.setattr(vessels, "FIRST_SHARE", 1.0)
    assert np.array_equal(course(branching)[1], in_parts)
    monkeypatch.setattr(vessels, "FIRST_SHARE", 0.01)
    assert np.array_equal(course(branching)[1], in_parts)
    assert in_parts.max() > 20  # sections along a branch: the first part does not show their edge


def test_a_line_beside_every_mask_has_no_width() -> None:
    line = Centreline(np.array([[3.0, 3.0], [4.0, 3.0]]), np.array([[0.0, 1.0], [0.0, 1.0]]))
    assert max(map(np.max, vessels._sides_px(np.zeros((9, 9), dtype=bool), line, 4.0))) == 0
