"""Sliding windows against scipy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from angio.sliding import highest, lowest

SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(
    st.one_of(arrays.arrays(np.uint8, SHAPES), arrays.arrays(np.bool_, SHAPES)),
    st.integers(1, 24),
    st.integers(0, 1),
)
def test_the_answers_are_scipys(values: np.ndarray, size_px: int, axis: int) -> None:
    for ours, theirs in (
        (lowest, ndimage.minimum_filter1d),
        (highest, ndimage.maximum_filter1d),
    ):
        found = ours(values, size_px, axis)
        assert found.dtype == values.dtype
        np.testing.assert_array_equal(found, theirs(values, size_px, axis=axis))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_window_of_one_pixel_changes_nothing(dtype: type) -> None:
    values = np.arange(12, dtype=dtype).reshape(3, 4)
    np.testing.assert_array_equal(lowest(values, 1, 0), values)
    np.testing.assert_array_equal(highest(values, 1, 1), values)
