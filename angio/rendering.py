"""Stored values to 8 bits, in one documented way, the same at import and at inference.

MONOCHROME1 is inverted; then the frame's own 0.5 and 99.5 percentiles become 0 and 255. The file's
VOI window is not used: it is written for a person at a monitor, and often spans the full range.
"""

import numpy as np
from jaxtyping import UInt8, UInt16

from angio.dicom.read import Cine

LOW_PCT, HIGH_PCT = 0.5, 99.5
METHOD = "percentile 0.5-99.5, 1"
"""Name and version of the rendering."""


def upright(
    pixels: UInt16[np.ndarray, "h w"], *, inverted: bool, bits: int
) -> UInt16[np.ndarray, "h w"]:
    """Stored values with vessels dark, whatever the photometric interpretation."""
    return np.asarray(np.uint16((1 << bits) - 1) - pixels) if inverted else pixels


def render(pixels: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """One upright frame in 8 bits; a frame of one value becomes black."""
    low, high = np.percentile(pixels, [LOW_PCT, HIGH_PCT])
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.uint8)
    scaled = (pixels.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def render_frame(cine: Cine, position: int = 0) -> UInt8[np.ndarray, "h w"]:
    """One of the frames a cine holds, by its position among them."""
    inverted = cine.photometric == "MONOCHROME1"
    return render(upright(cine.pixels[position], inverted=inverted, bits=cine.bits))
