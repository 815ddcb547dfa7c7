"""A ridge filter as the baseline that needs no training: what any model must beat.

Knows nothing of prompts beyond a box. Source: Frangi et al., MICCAI 1998, LNCS 1496, equations 13
and 15 (two-dimensional case, dark ridges).
"""

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold, threshold_otsu

from casebook.errors import PromptError

SCALES_PX = (1.5, 2.5, 4.0, 6.0)
"""Standard deviations of the Gaussians: vessels of about 3 to 17 px."""
BETA = 0.5
"""Weight of blob-likeness."""
TREE_QUANTILES = (0.92, 0.97)
"""Of the response: a tree covers some 3 to 5 % of an angiogram."""
SPECK_PX = 150
"""Smaller islands of the whole tree are noise."""


def _response(values: Float32[np.ndarray, "h w"], sigma: float) -> Float32[np.ndarray, "h w"]:
    """Vesselness at one scale."""
    smooth = np.pad(ndimage.gaussian_filter(values, sigma, truncate=3.0), 1, mode="edge")
    scale = np.float32(sigma**2)
    middle = smooth[1:-1, 1:-1]
    yy = (smooth[2:, 1:-1] - 2 * middle + smooth[:-2, 1:-1]) * scale
    xx = (smooth[1:-1, 2:] - 2 * middle + smooth[1:-1, :-2]) * scale
    xy = (smooth[2:, 2:] - smooth[2:, :-2] - smooth[:-2, 2:] + smooth[:-2, :-2]) * (scale / 4)
    root = np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
    mean = (xx + yy) / 2
    first, second = mean + root, mean - root
    swap = np.abs(first) < np.abs(second)
    large, small = np.where(swap, second, first), np.where(swap, first, second)
    strength = large**2 + small**2
    half = 0.5 * float(np.sqrt(strength.max())) or 1.0
    blob = np.exp(-((small / np.where(large == 0, np.float32(1), large)) ** 2) / (2 * BETA**2))
    line = 1 - np.exp(-strength / (2 * half**2))
    return np.asarray(np.where(large > 0, blob * line, 0), dtype=np.float32)


def vesselness(pixels: UInt8[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """How much each pixel lies on a dark line, from 0 to 1."""
    values = pixels.astype(np.float32)
    best = np.zeros(pixels.shape, dtype=np.float32)
    for sigma in SCALES_PX:
        best = np.maximum(best, _response(values, sigma))
    return best


def _above_otsu(response: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    if response.max() <= response.min():
        return np.zeros(response.shape, dtype=bool)
    return np.asarray(response > threshold_otsu(response))


def in_box(
    response: Float32[np.ndarray, "h w"], box_xyxy: tuple[float, float, float, float]
) -> Bool[np.ndarray, "h w"]:
    """The largest line inside a box, thresholded by Otsu's method there.

    Args:
        response: From `vesselness`.
        box_xyxy: x1, y1, x2, y2 in px, inclusive.

    Raises:
        PromptError: the box lies outside the image.
    """
    height, width = response.shape
    x1, y1 = max(int(box_xyxy[0]), 0), max(int(box_xyxy[1]), 0)
    x2, y2 = min(round(box_xyxy[2]), width - 1), min(round(box_xyxy[3]), height - 1)
    if x1 > x2 or y1 > y2:
        raise PromptError(f"box {box_xyxy} lies outside the {width}×{height} px image")
    found = np.zeros(response.shape, dtype=bool)
    crop = _above_otsu(response[y1 : y2 + 1, x1 : x2 + 1])
    numbered, count = ndimage.label(crop, structure=np.ones((3, 3)))
    if count:
        largest = int(np.argmax(np.bincount(numbered.ravel())[1:])) + 1
        found[y1 : y2 + 1, x1 : x2 + 1] = numbered == largest
    return found


def tree(response: Float32[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """All strong lines of the picture, as far as weaker ones go on from them."""
    low, high = np.quantile(response, TREE_QUANTILES)
    if high <= 0:
        return np.zeros(response.shape, dtype=bool)
    found = apply_hysteresis_threshold(response, max(float(low), 1e-6), float(high))
    numbered, _ = ndimage.label(found, structure=np.ones((3, 3)))
    large = np.bincount(numbered.ravel()) >= SPECK_PX
    large[0] = False
    return np.asarray(large[numbered])
