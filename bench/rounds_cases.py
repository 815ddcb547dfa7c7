"""Phantom cases for the bench of rounds, put straight into a workspace, and who corrects them.

Frames are rendered as everywhere, without the detour over DICOM files and their import. Knows the
truth of every case, which the models never see but through an expert's work.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from angio.phantoms.reader import rough_box, vessel_name
from angio.phantoms.render import render_cine
from angio.phantoms.scene import PhantomView, draw_patient
from angio.rendering import render
from casebook import masks
from casebook.annotations import (
    AnnotationSet,
    AnnotationSetBuilder,
    Origin,
    read_annotations,
    write_annotations,
)
from casebook.cases import Case, DeidRecord, PixelSpacing, Split, View
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.metrics import iou
from casebook.rounds import RoundFolder

Bitmap = Bool[np.ndarray, "h w"]
Side = Literal["right", "left"]
ACCEPTED_IOU = 0.80
"""A proposal that agrees this well is left as it is, as the demo's expert does."""
LAST_RIGHT_CASS = 10
"""CASS numbers up to this one are segments of the right coronary artery."""


@dataclass(frozen=True)
class Drawn:
    """One case, its picture and the true mask of its segment."""

    case: Case
    payload: bytes
    bitmap: Bitmap
    label: str


@dataclass(frozen=True)
class Plan:
    """Patients of a study, with the side of the heart each one shows; None: as chance has it."""

    train: tuple[Side | None, ...]
    val: tuple[Side | None, ...]
    test: tuple[Side | None, ...]

    def patients(self) -> Iterator[tuple[Split, Side | None]]:
        """All patients in order."""
        for split in Split:
            for side in getattr(self, split.value):
                yield split, side


def draw(seed: int, plan: Plan, labels: LabelSet) -> list[Drawn]:
    """Four cases a patient: two views of two narrowings; the same seed gives the same pixels."""
    found = []
    for number, (split, side) in enumerate(plan.patients()):
        rng = np.random.default_rng([21, seed, number])
        views = _views(rng, side)
        for order, view in enumerate(views):
            cine = render_cine(rng, view.scene)
            for which in range(len(view.outlines)):
                name = f"s{seed}-p{number:02d}-{order + 1}{which + 1}"
                found.append(_drawn(rng, name, f"s{seed}-p{number:02d}", split, view, which, cine,
                                    labels))  # fmt: skip
    return found


def _views(rng: np.random.Generator, side: Side | None) -> tuple[PhantomView, ...]:
    while True:
        views = draw_patient(rng)
        is_right = views[0].scene.tree.lesions[0].cass <= LAST_RIGHT_CASS
        if side is None or is_right == (side == "right"):
            return views


def _drawn(
    rng: np.random.Generator,
    name: str,
    patient: str,
    split: Split,
    view: PhantomView,
    which: int,
    cine: np.ndarray,
    labels: LabelSet,
) -> Drawn:
    seen, lesion, gantry = view.outlines[which], view.scene.tree.lesions[which], view.scene.gantry
    spacing = PixelSpacing(
        row_mm=gantry.isocentre_spacing_mm, col_mm=gantry.isocentre_spacing_mm, source="isocentre"
    )
    angles = View(primary_deg=gantry.primary_deg, secondary_deg=gantry.secondary_deg)
    payload = png_bytes(render(cine[seen.frame]), spacing, angles)
    label = next(label.name for label in labels.of_role("segment") if label.code == lesion.cass)
    x1, y1, x2, y2 = rough_box(rng, masks.box_of(seen.bitmap), gantry.hw)
    case = Case(
        case_id=name,
        patient=patient,
        split=split,
        source="images",
        frame=0,
        n_frames=1,
        stored_frames=(0,),
        height_px=gantry.hw[0],
        width_px=gantry.hw[1],
        spacing=spacing,
        view=angles,
        vessel=vessel_name(lesion),
        segment=label,
        lesion_box_xyxy=(float(x1), float(y1), float(x2), float(y2)),
        image_sha256=sha256_of(payload),
        deid=DeidRecord(method="synthetic", pixel_text="not applicable"),
    )
    return Drawn(case, payload, seen.bitmap, label)


def is_right(drawn: Drawn) -> bool:
    """Whether the case shows the right coronary artery."""
    return drawn.case.vessel in {"RCA", "PDA"}


def fill(home: Home, drawn: Sequence[Drawn], rounds: Mapping[str, int], labels: LabelSet) -> None:
    """Put cases into a workspace: scored ones and round 1's with their masks, others without.

    Args:
        rounds: The round of every training case that is used, by its id; others stay out.
    """
    catalogue = Catalogue(home)
    for one in drawn:
        number = rounds.get(one.case.case_id)
        if one.case.split is Split.TRAIN and number is None:
            continue
        is_given = one.case.split is not Split.TRAIN or number == 1
        given = _truth(one, labels) if is_given else None
        catalogue.add(one.case.with_(round=number), {0: one.payload}, annotations=given)


def _truth(one: Drawn, labels: LabelSet) -> AnnotationSet:
    builder = AnnotationSetBuilder(labels)
    image_id = builder.add_image(one.case.ref, one.bitmap.shape, status="ok")
    builder.add_mask(image_id, one.label, masks.encode(one.bitmap), Origin.HUMAN)
    return builder.build()


def correct(folder: RoundFolder, drawn: Mapping[str, Drawn]) -> int:
    """Write what experts make of the round's proposals, and how many of them they accept.

    A good proposal of the right label is kept as it is; any other frame is drawn anew.
    """
    manifest = folder.manifest()
    proposals = read_annotations(folder.file("proposals.coco.json"))
    images = {image.case_id: image.id for image in proposals.images}
    builder = AnnotationSetBuilder(manifest.labels, {"round": str(folder.number)})
    accepted = 0
    for line in manifest.cases:
        one = drawn[line.at.case_id]
        good = [
            entry
            for entry in proposals.of_image(images[line.at.case_id])
            if proposals.label_of(entry) == one.label
            and iou(masks.decode(entry.mask), one.bitmap) >= ACCEPTED_IOU
        ]
        image_id = builder.add_image(
            line.at, one.bitmap.shape, status="ok" if good else "corrected"
        )
        if good:
            accepted += 1
            builder.add_mask(
                image_id,
                one.label,
                good[0].mask,
                Origin.MODEL_REVIEWED,
                model_id=good[0].model_id,
                score=good[0].score,
            )
        else:
            builder.add_mask(image_id, one.label, masks.encode(one.bitmap), Origin.HUMAN)
    write_annotations(folder.file("annotations.coco.json"), builder.build())
    return accepted
