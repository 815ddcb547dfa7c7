"""Tidying bitmaps and their outlines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from casebook import regions

bitmaps = arrays(bool, st.tuples(st.integers(1, 16), st.integers(1, 16)))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


TWO = drawn("##...#", "##...#", "......")


def test_the_largest_region_is_kept() -> None:
    assert np.array_equal(regions.keep_main(TWO), drawn("##....", "##....", "......"))


def test_a_clicked_region_is_kept_even_if_smaller() -> None:
    kept = regions.keep_main(TWO, [(5.2, 0.9)])
    assert np.array_equal(kept, drawn(".....#", ".....#", "......"))


def test_all_clicked_regions_are_kept() -> None:
    assert np.array_equal(regions.keep_main(TWO, [(0.0, 0.0), (5.0, 0.0)]), TWO)


@pytest.mark.parametrize("click", [(3.0, 1.0), (3.0, 2.0), (50.0, 50.0), (-4.0, 0.0)])
def test_a_click_beside_every_region_leaves_the_largest(click: tuple[float, float]) -> None:
    assert regions.keep_main(TWO, [click]).sum() == 4


def test_a_diagonal_is_one_region() -> None:
    diagonal = np.eye(7, dtype=bool)
    assert np.array_equal(regions.keep_main(diagonal), diagonal)


def test_only_small_enclosed_holes_are_filled() -> None:
    ring = drawn("#####..", "#.##.#.", "#####.#", "....#.#")
    assert regions.fill_holes(ring, 1)[1, 1]
    assert not regions.fill_holes(ring, 0)[1, 1]
    big = np.ones((9, 9), dtype=bool)
    big[2:7, 2:7] = False
    assert np.array_equal(regions.fill_holes(big, 24), big)
    assert regions.fill_holes(big, 25).all()


@given(bitmap=bitmaps, max_px=st.integers(0, 20))
def test_tidying_twice_changes_nothing_more(bitmap: np.ndarray, max_px: int) -> None:
    once = regions.fill_holes(regions.keep_main(bitmap), max_px)
    again = regions.fill_holes(regions.keep_main(once), max_px)
    assert np.array_equal(once, again)
    assert not (regions.keep_main(bitmap) & ~bitmap).any()
