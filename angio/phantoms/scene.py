"""What a phantom patient looks like: tree, lesions, views, motion, and what is true of a frame.

Knows nothing of files.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from skimage.draw import polygon2mask

from angio.phantoms.anatomy import grow_tree
from angio.phantoms.gantry import Gantry
from angio.phantoms.render import Motion, Optics, Scene, cass_map, splat_tube, tree_bitmap
from angio.phantoms.tree import CoronaryTree, Lesion, Side, Vessel, add_lesion

VIEWS_DEG: dict[Side, tuple[tuple[float, float], ...]] = {
    "RCA": ((38.0, 0.0), (-30.0, 0.0), (0.0, 28.0), (30.0, 22.0)),
    "LCA": (
        (-25.0, -25.0), (0.0, -27.0), (-10.0, 36.0), (42.0, 26.0), (42.0, -26.0), (-32.0, 22.0),
    ),
}  # fmt: skip
"""Usual working views: primary angle (LAO positive), secondary (cranial positive)."""

MARGIN_PX = 8
FORESHORTENING_MIN = 0.6
"""Least share of its true length that an analysed stretch must show."""
AGREEMENT_MIN = 0.9
"""Least IoU between a stretch's outline and its splat; below it the outline folds over itself."""


@dataclass(frozen=True)
class Outline:
    """An analysed stretch as seen on one frame."""

    frame: int
    centre_xy: Float64[np.ndarray, "n 2"]
    left_xy: Float64[np.ndarray, "n 2"]
    right_xy: Float64[np.ndarray, "n 2"]
    ideal_left_xy: Float64[np.ndarray, "n 2"]
    ideal_right_xy: Float64[np.ndarray, "n 2"]
    px_per_mm: Float64[np.ndarray, " n"]
    along_mm: Float64[np.ndarray, " n"]
    bitmap: Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class PhantomView:
    """One cine of one patient, with an outline for each lesion."""

    scene: Scene
    outlines: tuple[Outline, ...]


def _stretch(vessel: Vessel, lesion: Lesion) -> slice:
    first, last = np.searchsorted(vessel.along_mm, (lesion.segment_start_mm, lesion.segment_end_mm))
    return slice(int(first), int(last) + 1)


def _sides(
    xy: Float64[np.ndarray, "n 2"], radius_px: Float64[np.ndarray, " n"]
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
    tangent = np.gradient(xy, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    return xy + normal * radius_px[:, None], xy - normal * radius_px[:, None]


def _ideal_mm(vessel: Vessel, lesion: Lesion, stretch: slice) -> Float64[np.ndarray, " n"]:
    """Diameters with the narrowing bridged in a straight line."""
    along, diameter = vessel.along_mm[stretch], vessel.diameter_mm[stretch]
    ends = np.interp((lesion.start_mm, lesion.end_mm), vessel.along_mm, vessel.diameter_mm)
    inside = (along > lesion.start_mm) & (along < lesion.end_mm)
    bridged = np.interp(along, (lesion.start_mm, lesion.end_mm), ends)
    return np.where(inside, bridged, diameter)


def outline(
    gantry: Gantry, tree: CoronaryTree, motion: Motion, lesion: Lesion, frame: int
) -> Outline:
    """The lumen's projected edges along an analysed stretch, and the pixels between them."""
    vessel = tree.vessel(lesion.vessel)
    stretch = _stretch(vessel, lesion)
    points = motion.displace(vessel.points_mm, tree.frame, frame)[stretch]
    xy, scale, _ = gantry.project(points)
    left, right = _sides(xy, vessel.diameter_mm[stretch] * scale / 2)
    ideal_left, ideal_right = _sides(xy, _ideal_mm(vessel, lesion, stretch) * scale / 2)
    corners = np.concatenate([left, right[::-1]])
    bitmap = polygon2mask(gantry.hw, corners[:, ::-1])
    return Outline(
        frame, xy, left, right, ideal_left, ideal_right, scale, vessel.along_mm[stretch], bitmap
    )


def is_readable(
    gantry: Gantry, tree: CoronaryTree, motion: Motion, lesion: Lesion, seen: Outline
) -> bool:
    """Whether a reader would analyse this stretch here: in the picture, filled, not folded."""
    height, width = gantry.hw
    edges = np.concatenate([seen.left_xy, seen.right_xy])
    if (
        edges.min() < MARGIN_PX
        or (edges.max(axis=0) > (width - MARGIN_PX, height - MARGIN_PX)).any()
    ):
        return False
    shown_mm = np.linalg.norm(np.diff(seen.centre_xy, axis=0), axis=1) / seen.px_per_mm[1:]
    if shown_mm.sum() < FORESHORTENING_MIN * (seen.along_mm[-1] - seen.along_mm[0]):
        return False
    vessel = tree.vessel(lesion.vessel)
    stretch = _stretch(vessel, lesion)
    if motion.concentration(vessel.path_mm[stretch], seen.frame).min() < 0.9:
        return False
    points = motion.displace(vessel.points_mm, tree.frame, seen.frame)[stretch]
    tube = splat_tube(gantry, points, vessel.diameter_mm[stretch])
    drawn = np.zeros(height * width, dtype=bool)
    drawn[tube.pixel] = True
    both = (drawn.reshape(height, width) & seen.bitmap).sum()
    return bool(both >= AGREEMENT_MIN * (drawn.reshape(height, width) | seen.bitmap).sum())


def _motion(rng: np.random.Generator, tree: CoronaryTree, n_frames: int) -> Motion:
    longest = max(float(vessel.path_mm[-1]) for vessel in tree.vessels)
    full_at = rng.uniform(2.5, 4.5)
    per_frame = rng.uniform(26, 48)
    drift = rng.normal(0, 0.12, 3)
    return Motion(
        frame_ms=float(rng.choice([66.67, 80.0, 100.0])),
        beat_ms=rng.uniform(680, 1000),
        beat_offset=rng.uniform(0, 1),
        squeeze=rng.uniform(0.10, 0.18),
        descent_mm=rng.uniform(6, 12),
        front_start_mm=0.95 * longest - full_at * per_frame,
        front_mm_per_frame=per_frame,
        front_width_mm=rng.uniform(6, 14),
        drift_mm=(float(drift[0]), float(drift[1]), float(drift[2])),
    )


def _gantry(rng: np.random.Generator, tree: CoronaryTree, view_deg: tuple[float, float]) -> Gantry:
    detector, patient = rng.uniform(980, 1180), rng.uniform(720, 790)
    spacing = rng.uniform(0.20, 0.35)
    points = np.concatenate([vessel.points_mm for vessel in tree.vessels])
    middle = -(points.max(axis=0) + points.min(axis=0)) / 2 + rng.normal(0, 5, 3)
    return Gantry(
        round(view_deg[0] + rng.normal(0, 4), 1),
        round(view_deg[1] + rng.normal(0, 3), 1),
        round(detector, 1),
        round(patient, 1),
        round(spacing * detector / patient, 5),
        (float(middle[0]), float(middle[1]), float(middle[2])),
    )


def _optics(rng: np.random.Generator) -> Optics:
    return Optics(
        iodine_per_mm=rng.uniform(0.11, 0.20),
        photons=rng.uniform(250, 1200),
        blur_px=rng.uniform(0.7, 1.2),
        scatter=rng.uniform(0.2, 0.4),
        gain=rng.uniform(0.55, 0.85),
    )


def _blades(rng: np.random.Generator) -> tuple[int, int, int, int]:
    if rng.random() < 0.7:
        return (0, 0, 0, 0)
    left, top, right, bottom = (int(width) for width in rng.integers(0, MARGIN_PX, 4))
    return left, top, right, bottom


def _try_view(
    rng: np.random.Generator, tree: CoronaryTree, view_deg: tuple[float, float]
) -> PhantomView | None:
    n_frames = int(rng.integers(8, 11))
    motion = _motion(rng, tree, n_frames)
    gantry = _gantry(rng, tree, view_deg)
    still = [frame for frame in range(2, n_frames) if motion.contraction(frame) < 0.05]
    outlines = []
    for lesion in tree.lesions:
        rng.shuffle(still)
        for frame in still:
            seen = outline(gantry, tree, motion, lesion, frame)
            if is_readable(gantry, tree, motion, lesion, seen):
                outlines.append(seen)
                break
        else:
            return None
    catheter_mm = float(rng.choice([5.0, 6.0, 6.0, 7.0])) / 3
    scene = Scene(gantry, tree, motion, _optics(rng), catheter_mm, n_frames, _blades(rng))
    return PhantomView(scene, tuple(outlines))


def draw_patient(
    rng: np.random.Generator, *, views: int = 2, lesions: int = 2, tries: int = 12
) -> tuple[PhantomView, ...]:
    """Cines of one random patient: the same tree and lesions from views that differ.

    Args:
        rng: Source of all chance.
        views: Number of cines.
        lesions: Number of lesions, each readable in every view.
        tries: Attempts at each view before the patient's lesions are drawn anew.
    """
    side: Side = "RCA" if rng.random() < 0.36 else "LCA"
    while True:
        tree = grow_tree(rng, side)
        for _ in range(lesions):
            mild = rng.random() < 0.15
            tree = add_lesion(rng, tree, stenosis=(0.10, 0.25) if mild else (0.25, 0.85))
        found: list[PhantomView] = []
        order = rng.permutation(len(VIEWS_DEG[side]))
        for number in order:
            for _ in range(tries):
                view = _try_view(rng, tree, VIEWS_DEG[side][number])
                if view is not None:
                    found.append(view)
                    break
            if len(found) == views:
                return tuple(found)


def tree_mask(scene: Scene, frame: int) -> Bool[np.ndarray, "h w"]:
    """Every pixel of the filled tree on one frame."""
    return tree_bitmap(scene.gantry, scene.tree, scene.motion, frame)


def cass_picture(scene: Scene, frame: int) -> UInt8[np.ndarray, "h w"]:
    """CASS numbers by pixel on one frame, 0 where contrast or a named segment is missing."""
    numbers = cass_map(scene.gantry, scene.tree, scene.motion, frame).astype(np.uint8)
    numbers[~tree_mask(scene, frame)] = 0
    return numbers


def pseudo_label(rng: np.random.Generator, scene: Scene, frame: int) -> Bool[np.ndarray, "h w"]:
    """The tree as an earlier model would give it: thin vessels lost, some pieces missing."""
    wide = [
        vessel for vessel in scene.tree.vessels
        if vessel.diameter_mm.mean() > 1.0 or rng.random() < 0.4
    ]  # fmt: skip
    tree = CoronaryTree(scene.tree.side, scene.tree.frame, tuple(wide))
    bitmap = tree_bitmap(scene.gantry, tree, scene.motion, frame)
    height, width = bitmap.shape
    y, x = np.mgrid[:height, :width]
    ys, xs = np.nonzero(bitmap)
    for at in rng.integers(0, len(ys), int(rng.integers(1, 5))):
        bitmap &= (x - xs[at]) ** 2 + (y - ys[at]) ** 2 > rng.uniform(3, 9) ** 2
    return bitmap
