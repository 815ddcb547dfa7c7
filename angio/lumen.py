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
REACH_MAX_PX = float(np.ceil(RADII_PX[-1] + BESIDE_PX))
"""How far across the line the picture is looked at, at most."""
ALONE_PRODUCTS = 2**18
"""Most products of a matrix product that OpenBLAS leaves to one thread.

Source: OpenBLAS, interface/gemm.c, SMP_THRESHOLD_MIN × GEMM_MULTITHREAD_THRESHOLD."""
ACROSS_STEP_PX = 0.5
FINE_PX = 0.05
"""Distance between samples of a shadow that is interpolated."""


@dataclass(frozen=True)
class _Templates:
    """Shadows of some radii at every shift, background removed."""

    unit: Float64[np.ndarray, "s x r"]
    """The sum of each one's squares is 1 …"""
    size: Float64[np.ndarray, "s r"]
    """… and the root of that sum was this when its strength was 1."""
    background: Float64[np.ndarray, "x 2"]


def _across(reach_px: float) -> Float64[np.ndarray, " x"]:
    return np.arange(-reach_px, reach_px + 1e-9, ACROSS_STEP_PX)


@lru_cache(maxsize=1)
def _shadows() -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, "p r"]]:
    """Places across the vessel, and the blurred shadow of every radius there."""
    fine = np.arange(-RADII_PX[-1] - 8, RADII_PX[-1] + 8, FINE_PX)
    chords = 2 * np.sqrt(np.clip(RADII_PX[:, None] ** 2 - fine[None] ** 2, 0, None))
    blurred = ndimage.gaussian_filter1d(chords, BLUR_PX / FINE_PX, axis=1, truncate=3.5)
    places = _across(REACH_MAX_PX + float(SHIFTS_PX[-1]))
    return places, np.stack([np.interp(places, fine, row) for row in blurred], axis=1)


@lru_cache(maxsize=32)
def _templates(reach_px: float, n_radii: int) -> _Templates:
    """Those of the smallest radii, seen as far as `reach_px` on each side.

    Args:
        reach_px: a whole number, at most `REACH_MAX_PX`.
        n_radii: how many.
    """
    across, (places, shadows) = _across(reach_px), _shadows()
    at = np.searchsorted(places, across - SHIFTS_PX[:, None])
    shapes = shadows[at, :n_radii]
    background = np.linalg.qr(np.stack([np.ones_like(across), across], axis=1))[0]
    shapes = shapes - background @ (background.T @ shapes)
    size = np.sqrt(np.maximum((shapes**2).sum(axis=1), 1e-9))
    return _Templates(shapes / size[:, None], size, background)


def _matched(
    flat: Float64[np.ndarray, "n x"], unit: Float64[np.ndarray, "s x r"]
) -> Float64[np.ndarray, "s n r"]:
    """The product of every profile with every template, in small parts.

    OpenBLAS shares a larger product among all cores, whose threads then spin for more: with a busy
    core that took ten times as long as one thread does, and held the next graph up.
    """
    n_rows = max(1, ALONE_PRODUCTS // unit[0].size)
    match = np.empty((len(unit), len(flat), unit.shape[2]))
    for first in range(0, len(flat), n_rows):
        part = slice(first, first + n_rows)
        np.matmul(flat[part], unit, out=match[:, part])
    return match


def _between_pixels(
    values: Float64[np.ndarray, "h w"], x: Float64[np.ndarray, "n k"], y: Float64[np.ndarray, "n k"]
) -> Float64[np.ndarray, "n k"]:
    """Values between the pixels' centres, bilinear; beyond the outermost those of the nearest.

    As `scipy.ndimage.map_coordinates` of order 1 and mode nearest does it, several times sooner.
    """
    height, width = values.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    column, row = x.astype(np.intp), y.astype(np.intp)
    right, down = x - column, y - row
    next_column, next_row = np.minimum(column + 1, width - 1), np.minimum(row + 1, height - 1)
    row *= width
    next_row *= width
    flat = values.ravel()
    above = flat[row + column] * (1 - right) + flat[row + next_column] * right
    below = flat[next_row + column] * (1 - right) + flat[next_row + next_column] * right
    return np.asarray(above * (1 - down) + below * down)


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
    profiles = _between_pixels(
        dark,
        line.points_xy[:, :1] + across * line.normals_xy[:, :1],
        line.points_xy[:, 1:] + across * line.normals_xy[:, 1:],
    )
    step = line.length_px / max(len(line.points_xy) - 1, 1)
    return np.asarray(ndimage.gaussian_filter1d(profiles, ALONG_PX / step, axis=0))


def _smooth_course(
    cost: Float64[np.ndarray, "n r"], off: Float64[np.ndarray, "n r"], disbelief: float
) -> Float64[np.ndarray, " n"]:
    """Radii of least total cost along the vessel when abrupt changes cost, too.

    At each point the mask is believed, or it is not and the lumen is narrower; at both ends it is.
    It is looked for from both ends at once, since a step takes hardly longer for two: the course is
    made of the two halves that meet in the middle and are cheapest together.

    Args:
        cost: What the picture has against each radius, at two points or more.
        off: By how much each radius is wider than the mask, in units of the trust in it.
        disbelief: What it costs to turn from the mask, and to turn back.

    Source: Viterbi, IEEE Trans. Inf. Theory 13 (1967) 260–269.
    """
    n, m = cost.shape
    against = np.stack([off**2, np.where(off < 0, ALONE, np.inf)], axis=1) + cost[:, None]
    against = against[:, : 2 if np.isfinite(disbelief) else 1]
    states, half = against.shape[1], n // 2
    both = np.stack([against[: half + 1], against[::-1][: half + 1]], axis=1)
    # A step is one row: the radii by way and state, and between them what no course goes through.
    width = 2 * states * (m + STEPS_MAX)
    rows = np.full((half + 1, width + 2 * STEPS_MAX), np.inf)
    reached = sliding_window_view(rows, width, axis=1)
    total = rows[:, STEPS_MAX:-STEPS_MAX].reshape(half + 1, 2, states, -1)[..., :m]
    total[0, :, 0] = both[0, :, 0]
    penalty = STIFFNESS * np.arange(-STEPS_MAX, STEPS_MAX + 1, dtype=np.float64) ** 2
    options = np.empty((len(penalty), width))
    cheapest = np.empty((half + 1, width))
    same = cheapest.reshape(half + 1, 2, states, -1)[..., :m]
    after = np.empty((2, states, m))
    for step in range(1, half + 1):
        np.add(reached[step - 1], penalty[:, None], out=options)
        np.minimum.reduce(options, axis=0, out=cheapest[step])
        if states == 2:
            np.add(same[step, :, ::-1], disbelief, out=after)
            np.minimum(after, same[step], out=after)
            np.add(after, both[step], out=total[step])
        else:
            np.add(same[step], both[step], out=total[step])
    turns = same[1:, :, ::-1] + disbelief < same[1:]
    met = np.where(turns[-1, 0], same[half, 0, ::-1] + disbelief, same[half, 0])
    state, at = np.unravel_index(int((met + total[n - half - 1, 1]).argmin()), met.shape)

    def traced(way: int, steps: int) -> list[int]:
        """The radii from the middle back to where one of the two ways begins."""
        course, here, believed = [int(at)], int(at), int(state)
        for step in range(steps, 0, -1):
            if turns[step - 1, way, believed, here]:
                believed = 1 - believed
            first = (way * states + believed) * (m + STEPS_MAX) + here
            before = rows[step - 1, first : first + len(penalty)] + penalty
            here += int(before.argmin()) - STEPS_MAX
            course.append(here)
        return course

    course = traced(0, half)[:0:-1] + traced(1, n - half - 1)
    return np.asarray(RADII_PX[course])


def straight(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], weight: Float64[np.ndarray, " n"]
) -> tuple[float, float]:
    """Slope and level, at x = 0, of the straight line with the least weighted squares.

    As `numpy.polyfit` of degree 1, whose weights are the roots of these, many times sooner.

    Args:
        x: not all the same.
        y: beside them.
        weight: of each, some of them positive.
    """
    shares = weight / weight.sum()
    middle_x, middle_y = float(shares @ x), float(shares @ y)
    away = shares * (x - middle_x)
    slope = float(away @ (y - middle_y)) / float(away @ (x - middle_x))
    return slope, middle_y - slope * middle_x


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
        slope, middle = straight(along[good], strength[good], weight[good] ** 2)
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
    reach = float(np.ceil(min(widest * 1.3 + BESIDE_PX, REACH_MAX_PX)))
    profiles = _profiles(pixels, line, _across(reach))
    largest = 1.6 * widest + 1.0
    n_radii = min(10 * (int(np.searchsorted(RADII_PX, largest)) // 10 + 1), len(RADII_PX))
    radii = RADII_PX[:n_radii]
    n_possible = max(int(np.count_nonzero(radii < min(largest, reach - 1.5))), 3)
    shadows = _templates(reach, n_radii)
    flat = profiles - (profiles @ shadows.background) @ shadows.background.T
    match = _matched(flat, shadows.unit)
    dark = np.maximum(match[..., :n_possible].max(axis=0), 0.0)
    rows, radius_at = np.arange(len(dark)), dark.argmax(axis=1)
    best, shift_at = dark[rows, radius_at], match[:, rows, radius_at].argmax(axis=0)
    strength = best / shadows.size[shift_at, radius_at]
    radius = radii[radius_at]
    weight = np.where((strength > 0) & (radius > 0.5 * np.median(radius)), radius, 0.0)
    explained = (best**2).sum() / max(float((flat**2).sum()), 1e-9)
    if (weight > 0).sum() < 8 or explained < EXPLAINED_MIN:
        raise QcaError(
            "no dark vessel lies along the mask; check that mask and frame belong together"
        )
    left_over = (flat**2).sum(axis=1) - best**2
    noise = max(float(np.median(left_over)) / len(shadows.background), 1e-12)
    held = _trend(strength, weight)[:, None] * shadows.size[:, None]
    match *= 2
    np.subtract(held, match, out=match)
    match *= held
    cost = match.min(axis=0) / (noise * REPEATED)
    cost = np.minimum(cost - cost.min(axis=1, keepdims=True), DOUBT_MAX)
    off = (2 * radii[None] - rough_px[:, None]) / MASK_TRUST_PX
    return 2 * _smooth_course(cost, off, DISBELIEF if by_model else np.inf)
