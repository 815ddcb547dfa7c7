"""Which frame of a run shows the vessels best filled with contrast. No model."""

import numpy as np
from jaxtyping import Float32, UInt16
from scipy import ndimage

from angio.dicom.read import Cine
from angio.rendering import upright
from casebook.errors import DataError

_SIDE_PX = 256
"""Frames are compared at about this size: vessels stay visible, noise does not."""
_BACKGROUND_PX = 8.0
_DARKEST_PCT = 95.0
_NEIGHBOURS = (0.25, 0.5, 0.25)


def _reduced(pixels: UInt16[np.ndarray, "h w"]) -> Float32[np.ndarray, "i j"]:
    step = max(1, round(max(pixels.shape) / _SIDE_PX))
    height, width = (extent // step * step for extent in pixels.shape)
    blocks = pixels[:height, :width].reshape(height // step, step, width // step, step)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def filling(cine: Cine) -> Float32[np.ndarray, " t"]:
    """How much thin dark structure each frame shows, as a share of the frame's own brightness."""
    inverted = cine.photometric == "MONOCHROME1"
    shown = []
    for pixels in cine.pixels:
        small = _reduced(upright(pixels, inverted=inverted, bits=cine.bits))
        depth = ndimage.gaussian_filter(small, _BACKGROUND_PX) - ndimage.gaussian_filter(small, 1.0)
        darkest = depth[depth >= np.percentile(depth, _DARKEST_PCT)]
        shown.append(float(darkest.mean()) / max(float(small.mean()), 1.0))
    return np.array(shown, dtype=np.float32)


def fullest_frame(cine: Cine) -> int:
    """Position, among the frames the cine holds, of the best filled one.

    A short average over neighbours keeps one noisy frame from winning.

    Raises:
        DataError: every frame is of one value.
    """
    if all(int(pixels.max()) == int(pixels.min()) for pixels in cine.pixels):
        raise DataError("every frame is of one grey value; there is nothing to see in this run")
    shown = filling(cine)
    if len(shown) < 3:
        return int(np.argmax(shown))
    return int(np.argmax(ndimage.convolve1d(shown, _NEIGHBOURS, mode="nearest")))
