"""Masks in every dress: hand-checked ones, round trips, and damage."""

import numpy as np
import pytest
from cvat_sdk.masks import decode_mask, encode_mask
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from casebook import masks
from casebook.errors import MaskError
from casebook.masks import Mask

bitmaps = arrays(bool, st.tuples(st.integers(1, 24), st.integers(1, 24)))
filled = bitmaps.filter(np.any)

# . # #
# . # .
HOOK = np.array([[False, True, True], [False, True, False]])


def packed(*counts: int) -> bytes:
    return np.array(counts, dtype=np.int32).tobytes()


def test_the_hook_in_every_dress_by_hand() -> None:
    assert masks.encode(HOOK) == Mask(packed(2, 3, 1), (2, 3))
    assert masks.encode(HOOK).counts == (2, 3, 1)
    assert masks.to_cvat(HOOK) == [0, 3, 1, 1, 0, 2, 1]
    assert masks.to_detector(HOOK) == [1, 1, 1, 0, 1, 0, 2, 1]
    assert masks.to_grid(HOOK) == [[0, 1, 1], [0, 1, 0]]
    assert masks.to_coco_rle(masks.encode(HOOK)) == "231"
    assert masks.box_of(HOOK) == (1, 0, 2, 1)
    assert masks.encode(HOOK).area_px == 3


@given(bitmap=bitmaps)
def test_coco_counts_read_back(bitmap: np.ndarray) -> None:
    mask = masks.encode(bitmap)
    assert np.array_equal(masks.decode(mask), bitmap)
    assert masks.from_coco_rle(list(mask.counts), mask.hw) == mask
    assert masks.from_coco_rle(masks.to_coco_rle(mask), mask.hw) == mask


@given(bitmap=bitmaps)
def test_coco_text_is_what_pycocotools_writes(bitmap: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))
    ours = masks.encode(bitmap)
    assert masks.to_coco_rle(ours) == theirs["counts"].decode()
    assert ours.area_px == int(coco.area(theirs))


@given(bitmap=filled)
def test_a_mask_and_its_bitmap_are_the_same_shape_in_cvat(bitmap: np.ndarray) -> None:
    assert masks.cvat_points(masks.encode(bitmap)) == masks.to_cvat(bitmap)


def test_an_empty_mask_is_no_shape_in_cvat() -> None:
    with pytest.raises(MaskError, match="mask is empty"):
        masks.cvat_points(masks.encode(np.zeros((4, 5), dtype=bool)))


@given(bitmap=filled)
def test_cvat_points_are_what_the_sdk_writes_and_reads(bitmap: np.ndarray) -> None:
    ours = masks.to_cvat(bitmap)
    assert ours == encode_mask(bitmap)
    height, width = bitmap.shape
    assert np.array_equal(decode_mask(ours, image_width=width, image_height=height), bitmap)
    assert np.array_equal(masks.from_cvat([float(n) for n in ours], bitmap.shape), bitmap)


@given(bitmap=filled)
def test_detector_pixels_and_grids_read_back(bitmap: np.ndarray) -> None:
    assert np.array_equal(masks.from_detector(masks.to_detector(bitmap), bitmap.shape), bitmap)
    assert np.array_equal(masks.from_grid(masks.to_grid(bitmap)), bitmap)
    assert np.array_equal(masks.to_grey(bitmap) > 0, bitmap)


@pytest.mark.parametrize(
    ("counts", "hw", "reason"),
    [
        ((4,), (0, 4), "1 to"),
        ((4,), (4, 0), "1 to"),
        ((1,), (10**5, 10**5), "1 to"),
        ((5, -1), (2, 2), "negative"),
        ((1, 2), (2, 2), "add up to 3"),
    ],
)
def test_a_mask_that_does_not_fill_its_image_is_refused(
    counts: tuple[int, ...], hw: tuple[int, int], reason: str
) -> None:
    with pytest.raises(MaskError, match=reason):
        Mask(packed(*counts), hw)


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([1, 0, 0, 0], "4 numbers"),
        ([float("nan"), 4, 0, 0, 1, 1], "finite"),
        ([4, 0.5, 0, 1, 1], "fractions"),
        ([4, float("nan"), 0, 1, 1], "finite"),
        ([4, 0, 0, 3, 1], "outside"),
        ([4, 1, 0, 0, 1], "outside"),
        ([4, 0, 0, 1, 5], "outside"),
        ([3.5, 0.5, 0, 0, 1, 1], "whole"),
        ([5, -1, 0, 0, 1, 1], "whole and not negative"),
        ([3, 0, 0, 1, 1], "add up to 3"),
    ],
)
def test_damaged_cvat_points_are_refused(points: list[float | int], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        masks.from_cvat(points, (2, 3))


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ([0, 0, 0, 0], "4 numbers"),
        ([1, 1, 0, 0, 1, 1], "2 pixels; its box has 4"),
        ([1, 2, 0, 0, 1, 0], "each 0 or 1"),
        ([1, float("inf"), 0, 1, 0], "finite"),
    ],
)
def test_damaged_detector_pixels_are_refused(points: list[float | int], reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        masks.from_detector(points, (2, 3))


@pytest.mark.parametrize("counts", [[], [10**9, 6], [10**30], [7, -1], [5]])
def test_damaged_uncompressed_counts_are_refused(counts: list[int]) -> None:
    with pytest.raises(MaskError):
        masks.from_coco_rle(counts, (2, 3))


def test_masks_with_the_same_pixels_are_equal_whoever_counted_them() -> None:
    assert masks.from_coco_rle([2, 1, 0, 2, 1], (2, 3)) == masks.encode(HOOK)
    assert masks.from_coco_rle([2, 3, 1, 0], (2, 3)) == masks.encode(HOOK)


@given(bitmap=filled)
def test_a_mask_knows_its_box_without_being_drawn(bitmap: np.ndarray) -> None:
    assert masks.encode(bitmap).box_xyxy == masks.box_of(bitmap)


@pytest.mark.parametrize("grid", [[], [[]], [[0, 1], [1]], [[0, 2]]])
def test_a_ragged_grid_is_refused(grid: list[list[int]]) -> None:
    with pytest.raises(MaskError):
        masks.from_grid(grid)


@given(text=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20))
def test_damaged_coco_text_is_refused_or_read_but_never_crashes(text: str) -> None:
    try:
        mask = masks.from_coco_rle(text, (5, 5))
    except MaskError:
        return
    assert sum(mask.counts) == 25


@pytest.mark.parametrize(
    ("text", "reason"),
    [("P", "ends in the middle"), ("\x7f", "no mask has"), ("o" * 20, "no mask")],
)
def test_what_is_wrong_with_coco_text_is_said(text: str, reason: str) -> None:
    with pytest.raises(MaskError, match=reason):
        masks.from_coco_rle(text, (2, 2))


def test_an_empty_mask_has_no_box_and_an_empty_bitmap_no_mask() -> None:
    with pytest.raises(MaskError, match="no box"):
        masks.box_of(np.zeros((3, 3), dtype=bool))
    with pytest.raises(MaskError, match="no box"):
        _ = masks.encode(np.zeros((3, 3), dtype=bool)).box_xyxy
    with pytest.raises(MaskError, match="at least 1×1"):
        masks.encode(np.zeros((0, 3), dtype=bool))


def test_a_bitmap_whose_true_is_not_one_is_refused_rather_than_miscounted() -> None:
    foreign = np.where(HOOK, 255, 0).astype(np.uint8).view(bool)
    for give in (masks.encode, masks.to_cvat, masks.box_of, masks.to_detector):
        with pytest.raises(MaskError, match="bytes other than 0 and 1"):
            give(foreign)
    assert masks.encode(foreign.view(np.uint8) != 0) == masks.encode(HOOK)
