"""Thinning beside scikit-image's, and by what a thinned mask must be."""

import numpy as np
import pytest
from jaxtyping import Bool
from scipy import ndimage
from skimage.morphology import thin

from angio.thinning import thinned

EIGHT = np.ones((3, 3), dtype=bool)


def drawn(number: int) -> Bool[np.ndarray, "h w"]:
    """Noise of any density, or blobs, of any small size."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(1, 48, 2)
    if number % 2:
        return ndimage.gaussian_filter(rng.standard_normal((height, width)), 1.5) > 0
    return np.asarray(rng.random((height, width)) < rng.uniform(0.2, 1.0))


def test_thinned_masks_are_those_of_scikit_image() -> None:
    masks = [drawn(number) for number in range(400)]
    assert sum(mask.any() for mask in masks) > 350
    for mask in masks:
        np.testing.assert_array_equal(thinned(mask), thin(mask))


def test_a_mask_falls_neither_apart_nor_together() -> None:
    for number in range(1, 80, 2):
        mask = drawn(number)
        line = thinned(mask)
        assert not (line & ~mask).any()
        assert ndimage.label(line, EIGHT)[1] == ndimage.label(mask, EIGHT)[1]


@pytest.mark.parametrize("mask", [np.zeros((4, 5), bool), np.zeros((0, 3), bool)])
def test_nothing_stays_nothing(mask: Bool[np.ndarray, "h w"]) -> None:
    assert thinned(mask).shape == mask.shape
    assert not thinned(mask).any()


def test_the_mask_given_is_left_as_it_is() -> None:
    mask = np.ones((9, 9), dtype=bool)
    assert thinned(mask).sum() < 20
    assert mask.all()
