"""Analysed segments on phantom angiograms, in memory: pixels, masks and what is true of them.

A patient depends on its number alone, so that those who test are frozen and never train. Measures
nothing itself.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from angio.phantoms import PHANTOM_VERSION
from angio.phantoms.reader import lesion_truth
from angio.phantoms.render import render_cine
from angio.phantoms.scene import cass_picture, draw_patient, tree_mask
from angio.phantoms.truth import LesionTruth
from angio.rendering import render
from casebook.cases import View
from casebook.masks import box_of
from casebook.protocols import Frame, Prompt

SEED = 20261123
"""Patients of this seed were in no tuning."""
DEVELOPMENT_SEED = 5101
FIRST_TRAIN, FIRST_TEST = 0, 10_000
"""Numbers of patients who train and who are scored."""


@dataclass(frozen=True)
class PhantomCase:
    """One analysed segment on one frame."""

    patient: int
    frame: Frame
    bitmap: Bool[np.ndarray, "h w"]
    """The segment between the reader's ends."""
    code: int
    """CASS number of the segment."""
    lesion: LesionTruth
    codes: UInt8[np.ndarray, "h w"]
    """CASS number of every pixel, 0 where there is no named segment."""
    tree: Bool[np.ndarray, "h w"]

    @property
    def box(self) -> Prompt:
        """The smallest box around the segment."""
        x1, y1, x2, y2 = box_of(self.bitmap)
        return Prompt(box_xyxy=(float(x1), float(y1), float(x2), float(y2)))


def phantom_cases(patients: Sequence[int], *, seed: int = SEED) -> Iterator[PhantomCase]:
    """Two views of two lesions of each patient, in order."""
    for patient in patients:
        rng = np.random.default_rng([PHANTOM_VERSION, seed, patient])
        for view in draw_patient(rng):
            scene, gantry = view.scene, view.scene.gantry
            cine = render_cine(rng, scene)
            angles = View(primary_deg=gantry.primary_deg, secondary_deg=gantry.secondary_deg)
            for lesion, seen in zip(scene.tree.lesions, view.outlines, strict=True):
                yield PhantomCase(
                    patient=patient,
                    frame=Frame(render(cine[seen.frame]), view=angles),
                    bitmap=seen.bitmap,
                    code=lesion.cass,
                    lesion=lesion_truth(lesion, seen),
                    codes=cass_picture(scene, seen.frame),
                    tree=tree_mask(scene, seen.frame),
                )
