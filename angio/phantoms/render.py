"""Image formation: a moving, filling coronary tree over a chest becomes detector counts.

Lumen thickness along each ray is splatted sphere by sphere and attenuates by Beer-Lambert; a
static chest, a catheter, scatter, blur and Poisson noise follow. Knows nothing of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt16
from scipy.ndimage import gaussian_filter

from angio.phantoms.chest import attenuation
from angio.phantoms.gantry import Gantry
from angio.phantoms.tree import CoronaryTree, HeartFrame

SPLAT_STEP_PX = 0.6
FULL_SCALE = 4095
"""Largest stored value of 12 bits."""

_INDEX_BITS = 16
_MICRON = 1000.0
_STRETCH_MAX = 2.5
"""A vessel seen end on is at most this many diameters thick along the ray."""


@dataclass(frozen=True)
class Motion:
    """How heart and contrast move during one cine."""

    frame_ms: float
    beat_ms: float
    beat_offset: float
    """Phase of the heart cycle at frame 0, in [0, 1); systole is the first 40 %."""
    squeeze: float
    """Share of the radius lost at the height of systole."""
    descent_mm: float
    """How far the valve plane moves towards the apex."""
    front_start_mm: float
    front_mm_per_frame: float
    front_width_mm: float
    drift_mm: tuple[float, float, float]
    """Movement by breathing, from one frame to the next."""

    def contraction(self, frame: int) -> float:
        """How far the heart is contracted, in [0, 1]."""
        phase = (self.beat_offset + frame * self.frame_ms / self.beat_ms) % 1.0
        return float(np.sin(np.pi * phase / 0.4) ** 2) if phase < 0.4 else 0.0

    def displace(
        self, points_mm: Float64[np.ndarray, "n 3"], heart: HeartFrame, frame: int
    ) -> Float64[np.ndarray, "n 3"]:
        """Where the points are at that frame."""
        amount = self.contraction(frame)
        along = points_mm @ heart.long_axis
        radial = points_mm - np.outer(along, heart.long_axis)
        to_apex = np.clip((0.65 * heart.length_mm - along) / heart.length_mm, 0, 1)
        return np.asarray(
            points_mm
            - amount * self.squeeze * radial
            + np.outer(amount * self.descent_mm * to_apex, heart.long_axis)
            + frame * np.asarray(self.drift_mm)
        )

    def concentration(
        self, path_mm: Float64[np.ndarray, " n"], frame: int
    ) -> Float64[np.ndarray, " n"]:
        """Share of full contrast that has reached each point, in [0, 1]."""
        ahead = self.front_start_mm + frame * self.front_mm_per_frame - path_mm
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-ahead / self.front_width_mm, -40, 40))))


@dataclass(frozen=True)
class Optics:
    """What turns thickness into counts."""

    iodine_per_mm: float
    """Attenuation of undiluted contrast."""
    photons: float
    """Counts per pixel behind the least attenuating part of the chest."""
    blur_px: float
    scatter: float
    """Share of the signal that is scattered light."""
    gain: float
    """Stored value per unattenuated beam, as a share of full scale."""


@dataclass(frozen=True)
class TubeMap:
    """One tube as seen on the detector, for the pixels it covers."""

    pixel: Int64[np.ndarray, " m"]
    """Covered pixels, numbered row by row."""
    thickness_mm: Float64[np.ndarray, " m"]
    depth_mm: Float64[np.ndarray, " m"]
    index: Int64[np.ndarray, " m"]
    """Number of the centreline point that is thickest at this pixel."""


def splat_tube(
    gantry: Gantry, points_mm: Float64[np.ndarray, "n 3"], diameter_mm: Float64[np.ndarray, " n"]
) -> TubeMap:
    """The tube as spheres along its centreline, stretched where it runs along the beam."""
    xy, scale, depth = gantry.project(points_mm)
    beam = gantry.axes[2]
    tangent = np.gradient(points_mm, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    sine = np.sqrt(np.clip(1 - (tangent @ beam) ** 2, 0, 1))
    stretch = 1.0 / np.maximum(sine, 1.0 / _STRETCH_MAX)
    travelled = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(xy, axis=0), axis=1))])
    at = np.interp(
        np.arange(0.0, travelled[-1], SPLAT_STEP_PX),
        travelled,
        np.arange(len(points_mm), dtype=float),
    )
    nearest = np.arange(len(points_mm))
    x, y = np.interp(at, nearest, xy[:, 0]), np.interp(at, nearest, xy[:, 1])
    radius = np.interp(at, nearest, diameter_mm * scale / 2)
    chord = np.interp(at, nearest, 2 * stretch / scale)
    number = np.rint(at).astype(np.int64)
    height, width = gantry.hw
    packed = np.zeros(height * width, dtype=np.int64)
    order = np.argsort(radius)
    for part in np.array_split(order, 4):
        if not len(part):
            continue
        reach = int(np.ceil(radius[part].max())) + 1
        offset = np.arange(-reach, reach + 1)
        px = np.rint(x[part]).astype(np.int64)[:, None] + offset
        py = np.rint(y[part]).astype(np.int64)[:, None] + offset
        square = ((py - y[part, None]) ** 2)[:, :, None] + ((px - x[part, None]) ** 2)[:, None, :]
        half = radius[part, None, None] ** 2 - square
        seen = half > 0
        seen &= ((py >= 0) & (py < height))[:, :, None] & ((px >= 0) & (px < width))[:, None, :]
        rows = np.nonzero(seen)
        thick = np.sqrt(half[rows]) * chord[part][rows[0]]
        key = (np.rint(thick * _MICRON).astype(np.int64) << _INDEX_BITS) | number[part][rows[0]]
        np.maximum.at(packed, py[rows[0], rows[1]] * width + px[rows[0], rows[2]], key)
    pixel = np.flatnonzero(packed > 0)
    index = packed[pixel] & ((1 << _INDEX_BITS) - 1)
    return TubeMap(pixel, (packed[pixel] >> _INDEX_BITS) / _MICRON, depth[index], index)


def contrast_path(
    gantry: Gantry, tree: CoronaryTree, motion: Motion, frame: int
) -> Float64[np.ndarray, "h w"]:
    """Millimetres of undiluted contrast on each ray; vessels that join in depth count once."""
    total, thickest, middle = (np.zeros(gantry.hw[0] * gantry.hw[1]) for _ in range(3))
    for vessel in tree.vessels:
        moved = motion.displace(vessel.points_mm, tree.frame, frame)
        tube = splat_tube(gantry, moved, vessel.diameter_mm)
        thick, depth = tube.thickness_mm, tube.depth_mm
        other, other_depth = thickest[tube.pixel], middle[tube.pixel]
        shared = np.minimum(depth + thick / 2, other_depth + other / 2) - np.maximum(
            depth - thick / 2, other_depth - other / 2
        )
        shared = np.where(other > 0, np.clip(shared, 0, np.minimum(thick, other)), 0.0)
        filled = motion.concentration(vessel.path_mm, frame)[tube.index]
        total[tube.pixel] += (thick - shared) * filled
        wider = thick > other
        thickest[tube.pixel[wider]] = thick[wider]
        middle[tube.pixel[wider]] = depth[wider]
    return total.reshape(gantry.hw)


def tree_bitmap(
    gantry: Gantry, tree: CoronaryTree, motion: Motion, frame: int
) -> Bool[np.ndarray, "h w"]:
    """Every pixel inside a vessel that contrast has reached at that frame."""
    bitmap = np.zeros(gantry.hw[0] * gantry.hw[1], dtype=bool)
    for vessel in tree.vessels:
        moved = motion.displace(vessel.points_mm, tree.frame, frame)
        tube = splat_tube(gantry, moved, vessel.diameter_mm)
        filled = motion.concentration(vessel.path_mm, frame)[tube.index] > 0.5
        bitmap[tube.pixel[filled]] = True
    return bitmap.reshape(gantry.hw)


def cass_map(
    gantry: Gantry, tree: CoronaryTree, motion: Motion, frame: int
) -> Int64[np.ndarray, "h w"]:
    """CASS number of the thickest vessel at each pixel, 0 outside the named segments."""
    numbers = np.zeros(gantry.hw[0] * gantry.hw[1], dtype=np.int64)
    thickest = np.zeros(numbers.shape)
    for vessel in tree.vessels:
        moved = motion.displace(vessel.points_mm, tree.frame, frame)
        tube = splat_tube(gantry, moved, vessel.diameter_mm)
        wins = tube.thickness_mm > thickest[tube.pixel]
        numbers[tube.pixel[wins]] = vessel.cass[tube.index[wins]]
        thickest[tube.pixel[wins]] = tube.thickness_mm[wins]
    return numbers.reshape(gantry.hw)


def catheter_path(tree: CoronaryTree) -> Float64[np.ndarray, "n 3"]:
    """Centreline of the guide catheter: down the aorta and into the ostium."""
    trunk = tree.vessels[0].points_mm
    tip, inward = trunk[8], trunk[0] - trunk[8]
    inward = inward / np.linalg.norm(inward)
    knots = np.stack(
        [
            tip,
            trunk[0],
            trunk[0] + 9 * inward + np.array([0.0, 0.0, 5.0]),
            trunk[0] + 14 * inward + np.array([0.0, 3.0, 30.0]),
            trunk[0] + 14 * inward + np.array([4.0, 12.0, 62.0]),
            trunk[0] + 14 * inward + np.array([14.0, 32.0, 84.0]),
        ]
    )
    spans = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
    wanted = np.arange(0, spans[-1], 0.5)
    smooth = np.stack([np.interp(wanted, spans, knots[:, axis]) for axis in range(3)], axis=1)
    return np.asarray(
        np.stack([gaussian_filter(smooth[:, axis], 9, mode="nearest") for axis in range(3)], axis=1)
    )


@dataclass(frozen=True)
class Scene:
    """Everything that one cine shows."""

    gantry: Gantry
    tree: CoronaryTree
    motion: Motion
    optics: Optics
    catheter_mm: float
    """Outer diameter of the guide catheter."""
    n_frames: int
    blades: tuple[int, int, int, int]
    """Width in px of the collimator's shadow at left, top, right, bottom."""


def _shade(scene: Scene, image: Float32[np.ndarray, "h w"]) -> None:
    height, width = image.shape
    left, top, right, bottom = scene.blades
    image[:, :left] *= 0.06
    image[:top] *= 0.06
    image[:, width - right :] *= 0.06
    image[height - bottom :] *= 0.06


def render_cine(
    rng: np.random.Generator, scene: Scene, frames: Sequence[int] | None = None
) -> UInt16[np.ndarray, "t h w"]:
    """Stored pixels of the whole cine, or of some of its frames: 12 bits, vessels dark."""
    wanted = range(scene.n_frames) if frames is None else frames
    gantry, optics = scene.gantry, scene.optics
    background = np.exp(-attenuation(rng, gantry)).astype(np.float32)
    background /= np.percentile(background, 99)
    glare = gaussian_filter(background, 40)
    catheter = catheter_path(scene.tree)
    walls = np.full(len(catheter), scene.catheter_mm)
    cine = np.empty((len(wanted), *gantry.hw), dtype=np.uint16)
    for place, frame in enumerate(wanted):
        iodine = contrast_path(gantry, scene.tree, scene.motion, frame)
        tip = scene.motion.displace(catheter[:1], scene.tree.frame, frame)[0] - catheter[0]
        loose = np.exp(-np.arange(len(catheter)) / 60.0)[:, None]
        tube = splat_tube(gantry, catheter + tip * loose, walls)
        absorbed = optics.iodine_per_mm * iodine
        absorbed.reshape(-1)[tube.pixel] += (
            0.55 * optics.iodine_per_mm * tube.thickness_mm + 0.10 * np.sqrt(tube.thickness_mm)
        )
        primary = background * np.exp(-absorbed).astype(np.float32)
        beam = (1 - optics.scatter) * gaussian_filter(
            primary, optics.blur_px
        ) + optics.scatter * glare
        _shade(scene, beam)
        counts = rng.poisson(np.maximum(beam, 1e-3) * optics.photons).astype(np.float32)
        seen = gaussian_filter(counts, 0.45) * (optics.gain * FULL_SCALE / optics.photons)
        cine[place] = np.clip(np.rint(seen), 0, FULL_SCALE).astype(np.uint16)
    return cine
