"""Lumen width from the picture, below the size of a pixel: a round vessel's shadow, fitted.

A round lumen of radius r absorbs like the chord 2 sqrt(r² − x²); the optics blur it. Width and
strength of that shadow are fitted together, then the strength, which contrast fixes for the whole
vessel, is held to its trend: a narrow lumen is then measured by how little it absorbs as well as by
its edges, and where vessels cross the mask's own width decides. Knows no millimetres or lesions.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, UInt8, UInt16
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from angio.vessels import Centreline
from casebook.errors import QcaError

RADII_PX = np.arange(0.3, 16.0, 0.1)
SHIFTS_PX = np.arange(-2.0, 2.01, 0.5)
"""How far the vessel's middle may lie from the centreline given."""
BLUR_PX = 1.2
"""Blur of the optics and of the smoothing along the vessel, together."""
MASK_TRUST_PX = 0.5
"""Standard deviation granted to the mask's own width: it holds the fit where vessels cross.

Truth's masks deserve 0.25 and a small model's 1; `bench.qca` tries both kinds."""
DISBELIEF = 80.0
"""What it costs to leave the mask's width for a narrower lumen, and again to come back to it.

For masks of models, which draw tight lesions as wide as the vessel around them: one mistake over a
stretch, not one at each point, so that a stretch of good evidence is needed and noise at a few
points does not do. Wider shadows are mostly another vessel's. People's masks are believed."""
ALONE = 0.5
"""What each point costs where the mask is not believed."""
REPEATED = 12.0
"""Neighbouring samples that tell the same, because of smoothing and of steps below a pixel."""
DOUBT_MAX = 3.0
"""Most that one place can speak against a radius: crossings and branches must not rule."""
STIFFNESS = 0.05
"""Cost of a radius that changes by one grid step between neighbouring points, squared."""
STEPS_MAX = 4
EXPLAINED_MIN = 0.3
"""Least share of the picture's variation across the line that a vessel must account for."""
ALONG_PX = 2.0
"""Smoothing along the vessel."""
BESIDE_PX = 5.0
"""Background looked at on each side of the widest lumen."""
ACROSS_STEP_PX = 0.5
FINE_PX = 0.05
"""Distance between samples of a shadow that is interpolated."""


@dataclass(frozen=True)
class _Templates:
    """Shadows of unit strength for some radii and every shift, background removed."""

    shapes: Float64[np.ndarray, "x s r"]
    power: Float64[np.ndarray, "s r"]
    background: Float64[np.ndarray, "x 2"]


def _across(reach_px: float) -> Float64[np.ndarray, " x"]:
    return np.arange(-reach_px, reach_px + 1e-9, ACROSS_STEP_PX)


@lru_cache(maxsize=1)
def _shadows() -> tuple[Float64[np.ndarray, " f"], Float64[np.ndarray, "r f"]]:
    """Places from the middle outwards, and the blurred shadow of every radius there."""
    fine = np.arange(-RADII_PX[-1] - 8, RADII_PX[-1] + 8, FINE_PX)
    chords = 2 * np.sqrt(np.clip(RADII_PX[:, None] ** 2 - fine[None] ** 2, 0, None))
    return fine, ndimage.gaussian_filter1d(chords, BLUR_PX / FINE_PX, axis=1, truncate=3.5)


@lru_cache(maxsize=32)
def _templates(reach_px: float, n_radii: int) -> _Templates:
    """Those of the smallest radii, seen as far as `reach_px` on each side."""
    across, (fine, blurred) = _across(reach_px), _shadows()
    places = across[:, None] - SHIFTS_PX[None]
    shapes = np.stack([np.interp(places, fine, row) for row in blurred[:n_radii]], axis=2)
    background = np.linalg.qr(np.stack([np.ones_like(across), across], axis=1))[0]
    flat = shapes.reshape(len(across), -1)
    flat = flat - background @ (background.T @ flat)
    shapes = flat.reshape(shapes.shape)
    return _Templates(shapes, (shapes**2).sum(axis=0), background)


def _profiles(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"],
    line: Centreline,
    across: Float64[np.ndarray, " x"],
) -> Float64[np.ndarray, "n x"]:
    """Absorption across the vessel at every centreline point.

    16 bits are proportional to the beam, so their logarithm is absorption; a rendered 8-bit picture
    has an unknown zero, so its darkness is taken as it is.
    """
    if pixels.dtype == np.uint16:
        dark = -np.log(np.maximum(pixels.astype(np.float64), 1.0))
    else:
        dark = -pixels.astype(np.float64)
    places = line.points_xy[:, None] + across[None, :, None] * line.normals_xy[:, None]
    profiles = ndimage.map_coordinates(
        dark, [places[..., 1], places[..., 0]], order=1, mode="nearest"
    )
    step = line.length_px / max(len(line.points_xy) - 1, 1)
    return np.asarray(ndimage.gaussian_filter1d(profiles, ALONG_PX / step, axis=0))


def _smooth_course(
    cost: Float64[np.ndarray, "n r"], off: Float64[np.ndarray, "n r"], disbelief: float
) -> Float64[np.ndarray, " n"]:
    """Radii of least total cost along the vessel when abrupt changes cost, too.

    At each point the mask is believed, or it is not and the lumen is narrower; at both ends it is.

    Args:
        cost: What the picture has against each radius.
        off: By how much each radius is wider than the mask, in units of the trust in it.
        disbelief: What it costs to turn from the mask, and to turn back.

    Source: Viterbi, IEEE Trans. Inf. Theory 13 (1967) 260–269.
    """
    n, m = cost.shape
    against = np.stack([off**2, np.where(off < 0, ALONE, np.inf)], axis=1) + cost[:, None]
    against = against[:, : 2 if np.isfinite(disbelief) else 1]
    states = against.shape[1]
    total = np.full((n, states, m + 2 * STEPS_MAX), np.inf)
    inner = total[:, :, STEPS_MAX : STEPS_MAX + m]
    inner[0, 0] = against[0, 0]
    reached = sliding_window_view(total, m, axis=2)
    penalty = STIFFNESS * np.arange(-STEPS_MAX, STEPS_MAX + 1, dtype=np.float64) ** 2
    options = np.empty((states, len(penalty), m))
    same, changed = np.empty((2, states, m))
    turns = np.zeros((n, states, m), dtype=bool)
    for row in range(1, n):
        np.add(reached[row - 1], penalty[:, None], out=options)
        np.minimum.reduce(options, axis=1, out=same)
        np.add(same[::-1], disbelief, out=changed)
        np.less(changed, same, out=turns[row])
        np.minimum(same, changed, out=same)
        np.add(same, against[row], out=inner[row])
    state, at = 0, int(inner[-1, 0].argmin())
    course = np.empty(n, dtype=np.int64)
    course[-1] = at
    for row in range(n - 1, 0, -1):
        if turns[row, state, at]:
            state = 1 - state
        before = total[row - 1, state, at : at + len(penalty)] + penalty
        at += int(before.argmin()) - STEPS_MAX
        course[row - 1] = at
    return np.asarray(RADII_PX[course])


def _trend(
    strength: Float64[np.ndarray, " n"], weight: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """A straight line through the strengths, outliers left out; they change slowly."""
    along = np.linspace(-1.0, 1.0, len(strength))
    keep = weight > 0
    line = np.full(len(strength), float(np.median(strength[keep])))
    for _ in range(6):
        spread = 1.4826 * float(np.median(np.abs(strength[keep] - line[keep]))) + 1e-12
        good = keep & (np.abs(strength - line) < 2.5 * spread)
        if good.sum() < 8:
            break
        slope, middle = np.polyfit(along[good], strength[good], 1, w=weight[good])
        line = middle + slope * along
    return np.asarray(np.maximum(line, 0.3 * float(np.median(strength[keep]))))


def lumen_px(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"],
    line: Centreline,
    rough_px: Float64[np.ndarray, " n"],
    *,
    by_model: bool = False,
) -> Float64[np.ndarray, " n"]:
    """Diameter of the lumen at every point of the centreline.

    Args:
        pixels: The frame, vessels dark: stored bits (16) or rendered (8).
        line: The vessel's centreline.
        rough_px: Diameters of the mask, to know how far to look.
        by_model: Whether a model drew the mask, whose width at a lesion is then doubted.

    Raises:
        QcaError: no dark vessel lies along the line.
    """
    widest = float(np.percentile(rough_px, 95)) / 2
    reach = float(np.ceil(min(widest * 1.3 + BESIDE_PX, RADII_PX[-1] + BESIDE_PX)))
    across = _across(reach)
    profiles = _profiles(pixels, line, across)
    largest = 1.6 * widest + 1.0
    n_radii = min(10 * (int(np.searchsorted(RADII_PX, largest)) // 10 + 1), len(RADII_PX))
    radii = RADII_PX[:n_radii]
    n_possible = max(int(np.count_nonzero(radii < min(largest, reach - 1.5))), 3)
    shadows = _templates(reach, n_radii)
    flat = profiles - (profiles @ shadows.background) @ shadows.background.T
    match = np.tensordot(flat, shadows.shapes, axes=1)
    gain = np.maximum(match[..., :n_possible], 0.0)
    gain *= gain
    gain /= np.maximum(shadows.power[:, :n_possible], 1e-9)
    peak = gain.reshape(len(gain), -1).argmax(axis=1)
    shift_at, radius_at = np.unravel_index(peak, gain.shape[1:])
    rows = np.arange(len(gain))
    strength = match[rows, shift_at, radius_at] / shadows.power[shift_at, radius_at]
    radius = radii[radius_at]
    weight = np.where((strength > 0) & (radius > 0.5 * np.median(radius)), radius, 0.0)
    explained = gain[rows, shift_at, radius_at].sum() / max(float((flat**2).sum()), 1e-9)
    if (weight > 0).sum() < 8 or explained < EXPLAINED_MIN:
        raise QcaError(
            "no dark vessel lies along the mask; check that mask and frame belong together"
        )
    held = _trend(strength, weight)[:, None, None]
    left_over = (flat**2).sum(axis=1) - gain[rows, shift_at, radius_at]
    noise = max(float(np.median(left_over)) / len(across), 1e-12)
    misfit = held**2 * shadows.power
    match *= 2 * held
    misfit -= match
    cost = misfit.min(axis=1) / (noise * REPEATED)
    cost = np.minimum(cost - cost.min(axis=1, keepdims=True), DOUBT_MAX)
    off = (2 * radii[None] - rough_px[:, None]) / MASK_TRUST_PX
    return 2 * _smooth_course(cost, off, DISBELIEF if by_model else np.inf)
