"""Stored values to 8 bits, in one documented way, the same at import and at inference.

In this order:

1. the Modality LUT, where it changes more than scale;
2. the file's mask is subtracted, only where that was asked for;
3. MONOCHROME1 is inverted, so that vessels are dark;
4. the frame's own 0.5 and 99.5 percentiles become 0 and 255 (`contrast`), or the file's VOI LUT or
   window is applied (`window`), only where that was asked for.

`contrast` is what models are trained on. The VOI window is not the default: it is written for a
person at a monitor, often spans the full range, and differs between makers. Stored values are kept
beside every rendered frame, untouched, for measurement.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from angio.dicom.read import Cine

LOW_PCT, HIGH_PCT = 0.5, 99.5
METHOD = "percentile 0.5-99.5, 1"
"""Name and version of the rendering."""

Look = Literal["contrast", "window"]


def upright(
    pixels: UInt16[np.ndarray, "h w"], *, inverted: bool, bits: int
) -> UInt16[np.ndarray, "h w"]:
    """Stored values with vessels dark, whatever the photometric interpretation."""
    return np.asarray(np.uint16((1 << bits) - 1) - pixels) if inverted else pixels


def _between(lower: float, upper: float, share: float) -> float:
    """As numpy's linear percentile does it, to the last bit."""
    apart = upper - lower
    return upper - apart * (1 - share) if share >= 0.5 else lower + apart * share


def _percentile(cumulated: np.ndarray, total: int, pct: float) -> float:
    """A percentile of counted values, interpolated between the two nearest."""
    at = pct / 100 * (total - 1)
    below = int(at)
    lower = int(np.searchsorted(cumulated, below, side="right"))
    upper = int(np.searchsorted(cumulated, min(below + 1, total - 1), side="right"))
    return _between(float(lower), float(upper), at - below)


def _spread(values: Float32[np.ndarray, "..."], low: float, high: float) -> np.ndarray:
    scaled = (values - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.asarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def render(pixels: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """One upright frame in 8 bits; a frame of one value becomes black.

    Values are counted once, and the table from value to grey is as long as the greatest value: the
    result is that of sorting and scaling every pixel, some five times sooner.
    """
    counts = np.bincount(pixels.ravel())
    cumulated = np.cumsum(counts)
    low = _percentile(cumulated, pixels.size, LOW_PCT)
    high = _percentile(cumulated, pixels.size, HIGH_PCT)
    if high <= low:
        return np.zeros(pixels.shape, dtype=np.uint8)
    table = _spread(np.arange(len(counts), dtype=np.float32), low, high)
    return np.asarray(table[pixels])


def _render_values(values: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    low, high = (float(value) for value in np.percentile(values, [LOW_PCT, HIGH_PCT]))
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    return _spread(values, low, high)


def upright_frame(cine: Cine, position: int = 0) -> UInt16[np.ndarray, "h w"]:
    """Stored values of one of the frames a cine holds, vessels dark: what measurements read."""
    inverted = cine.photometric == "MONOCHROME1"
    return upright(cine.pixels[position], inverted=inverted, bits=cine.bits)


def rendering_of(cine: Cine, look: Look) -> str:
    """Name and version of what `render_frame` does to a cine's frames."""
    if cine.subtracted is not None:
        return f"mask subtracted; {METHOD}"
    if look == "window" and (cine.tone.voi is not None or cine.tone.window is not None):
        return "VOI look-up table, 1" if cine.tone.voi is not None else "VOI window, 1"
    return METHOD if cine.tone.keeps_values else f"Modality LUT; {METHOD}"


def _levels(cine: Cine) -> Float64[np.ndarray, " n"]:
    """Every value that `bits` can store, after the Modality LUT."""
    return cine.tone.modality_values(np.arange(1 << cine.bits, dtype=np.float64))


def render_frame(
    cine: Cine, position: int = 0, look: Look = "contrast"
) -> UInt8[np.ndarray, "h w"]:
    """One of the frames a cine holds, by its position among them.

    Args:
        cine: The frames; those less their mask are shown when it holds them.
        position: Among `cine.frames`.
        look: `contrast` for models, `window` for the file's own VOI LUT or window, which falls back
            to `contrast` where the file has none or the mask is subtracted.
    """
    inverted = cine.photometric == "MONOCHROME1"
    stored = cine.pixels[position]
    if cine.subtracted is not None:
        difference = cine.subtracted[position]
        return _render_values(-difference if inverted else difference)
    if look == "window":
        seen = cine.tone.seen(_levels(cine))
        if seen is not None:
            table = np.rint(255 * (1.0 - seen if inverted else seen)).astype(np.uint8)
            return np.asarray(table[stored])
    if cine.tone.keeps_values:
        return render(upright(stored, inverted=inverted, bits=cine.bits))
    levels = _levels(cine)
    values = (-levels if inverted else levels).astype(np.float32)[stored]
    return _render_values(np.asarray(values))
