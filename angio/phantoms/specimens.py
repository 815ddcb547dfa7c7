"""One lesion of a wanted size on one still frame: what measurements are tried on.

The vessels, the chest and the optics are those of a phantom cine; size, depth, spacing, noise and
blur are given instead of drawn. Not part of version 1's studies. Knows nothing of files.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt16

from angio.phantoms.anatomy import grow_tree
from angio.phantoms.gantry import Gantry
from angio.phantoms.reader import lesion_truth
from angio.phantoms.render import Motion, Optics, Scene, render_cine
from angio.phantoms.scene import VIEWS_DEG, Outline, is_readable, outline
from angio.phantoms.tree import CoronaryTree, Lesion, Side, add_lesion
from angio.phantoms.truth import LesionTruth

SCALE_MAX = 1.5
"""Most that a tree's diameters are scaled, up or down, to give the wanted reference."""

_STILL = Motion(
    frame_ms=66.67,
    beat_ms=1000.0,
    beat_offset=0.5,
    squeeze=0.0,
    descent_mm=0.0,
    front_start_mm=1000.0,
    front_mm_per_frame=0.0,
    front_width_mm=10.0,
    drift_mm=(0.0, 0.0, 0.0),
)
"""Diastole, all vessels filled."""


@dataclass(frozen=True)
class Recipe:
    """What a specimen shall be."""

    rvd_mm: float
    """Reference diameter at the narrowest place."""
    severity: float
    """Depth of the narrowing as a share of the diameter."""
    spacing_mm: float
    """Millimetres per px at the isocentre."""
    photons: float
    """Counts per pixel behind the least attenuating part of the chest."""
    blur_px: float
    """Standard deviation of the optics' blur."""


@dataclass(frozen=True)
class Specimen:
    """A lesion, its picture and its outline."""

    lesion: Lesion
    seen: Outline
    scene: Scene
    pixels: UInt16[np.ndarray, "h w"]

    @property
    def truth(self) -> LesionTruth:
        """The lesion in the vessel and on the frame."""
        return lesion_truth(self.lesion, self.seen)


def _scaled(tree: CoronaryTree, factor: float) -> CoronaryTree:
    """The tree with all diameters multiplied."""
    vessels = tuple(replace(one, diameter_mm=one.diameter_mm * factor) for one in tree.vessels)
    lesions = tuple(
        replace(one, mld_mm=one.mld_mm * factor, rvd_mm=one.rvd_mm * factor) for one in tree.lesions
    )
    return replace(tree, vessels=vessels, lesions=lesions)


def _gantry(rng: np.random.Generator, tree: CoronaryTree, spacing_mm: float) -> Gantry:
    """A usual view with the lesion near the middle of the picture, at any depth."""
    views = VIEWS_DEG[tree.side]
    primary, secondary = views[int(rng.integers(len(views)))]
    lesion = tree.lesions[0]
    vessel = tree.vessel(lesion.vessel)
    at = int(np.argmin(np.abs(vessel.along_mm - lesion.mld_at_mm)))
    shift = rng.normal(0, 8, 3) - vessel.points_mm[at]
    detector, patient = rng.uniform(980, 1180), rng.uniform(720, 790)
    return Gantry(
        primary + rng.normal(0, 4),
        secondary + rng.normal(0, 3),
        detector,
        patient,
        spacing_mm * detector / patient,
        (float(shift[0]), float(shift[1]), float(shift[2])),
    )


def draw_specimen(rng: np.random.Generator, recipe: Recipe) -> Specimen:
    """A random lesion as the recipe says, readable on its frame.

    Args:
        rng: Source of all chance: anatomy, place, view, contrast, chest, noise.
        recipe: Size, depth, spacing, noise and blur.
    """
    while True:
        side: Side = "RCA" if rng.random() < 0.36 else "LCA"
        tree = add_lesion(rng, grow_tree(rng, side), stenosis=(recipe.severity, recipe.severity))
        factor = recipe.rvd_mm / tree.lesions[0].rvd_mm
        if not 1 / SCALE_MAX <= factor <= SCALE_MAX:
            continue
        tree = _scaled(tree, factor)
        lesion = tree.lesions[0]
        gantry = _gantry(rng, tree, recipe.spacing_mm)
        seen = outline(gantry, tree, _STILL, lesion, 0)
        if not is_readable(gantry, tree, _STILL, lesion, seen):
            continue
        optics = Optics(
            iodine_per_mm=rng.uniform(0.11, 0.20),
            photons=recipe.photons,
            blur_px=recipe.blur_px,
            scatter=rng.uniform(0.2, 0.4),
            gain=rng.uniform(0.55, 0.85),
        )
        scene = Scene(gantry, tree, _STILL, optics, 2.0, 1, (0, 0, 0, 0))
        return Specimen(lesion, seen, scene, render_cine(rng, scene)[0])
