"""A small workspace: dark curved tubes on a bright ground, with expert masks for some cases."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case, DeidRecord, FrameRef, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.rounds import RoundFolder
from segmenter.sam3 import SMALLEST, build
from segmenter.weights import save_base

SIDE_PX = 96
LABELS = LabelSet(
    name="tubes",
    labels=(
        Label(name="tube", role="segment"),
        Label(name="stenosis", role="lesion"),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)
CONF_TEXT = """\
labels: labels.yaml
base: small
select: {{strategy: order, cases: {cases}}}
train:
  {{steps: {steps}, batch: 2, concept_every: 3, checkpoint_every: {every}, log_every: 1}}
gate: {{resamples: 200}}
"""


def picture(seed: int) -> tuple[UInt8[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """Pixels and the true mask of one tube."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX]
    centre = rng.uniform(30, 66) + rng.uniform(6, 14) * np.sin(columns / rng.uniform(12, 20))
    tube = (np.abs(rows - centre) < rng.uniform(3, 5)) & (columns > 16) & (columns < 80)
    grey = 170.0 - 100.0 * tube + rng.normal(0, 8, tube.shape)
    return np.clip(grey, 0, 255).astype(np.uint8), tube


def truth_set(case: Case, bitmap: Bool[np.ndarray, "h w"]) -> AnnotationSet:
    """An expert's annotation of a case."""
    builder = AnnotationSetBuilder(LABELS)
    image_id = builder.add_image(case.ref, (SIDE_PX, SIDE_PX), status="ok")
    builder.add_mask(image_id, "tube", masks.encode(bitmap), Origin.HUMAN)
    return builder.build()


def add_case(
    catalogue: Catalogue,
    number: int,
    split: Split,
    *,
    patient: str | None = None,
    is_annotated: bool = True,
    planned: int | None = None,
    picture_of: int | None = None,
) -> Case:
    """Add one case."""
    pixels, bitmap = picture(number if picture_of is None else picture_of)
    payload = png_bytes(pixels)
    x1, y1, x2, y2 = masks.box_of(bitmap)
    case = Case(
        case_id=f"case-{number:03d}",
        patient=patient or f"p{number:03d}",
        split=split,
        source="images",
        frame=0,
        n_frames=1,
        stored_frames=(0,),
        height_px=SIDE_PX,
        width_px=SIDE_PX,
        vessel="RCA" if number % 2 else "LAD",
        segment="tube",
        round=planned,
        lesion_box_xyxy=None if is_annotated else (x1 - 2.0, y1 - 2.0, x2 + 2.0, y2 + 2.0),
        image_sha256=sha256_of(payload),
        deid=DeidRecord(method="synthetic", pixel_text="not applicable"),
    )
    given = truth_set(case, bitmap) if is_annotated else None
    catalogue.add(case, {0: payload}, annotations=given)
    return case


def make_workspace(root: Path, *, bootstrap: int = 4, new: int = 4, scored: int = 3) -> Home:
    """Cases of round 1 with annotations, later ones without, frozen val and test cases."""
    home = Home(root / "workspace")
    catalogue = Catalogue(home)
    number = 0
    for split, count, is_annotated in (
        (Split.TRAIN, bootstrap, True),
        (Split.TRAIN, new, False),
        (Split.VAL, scored, True),
        (Split.TEST, scored, True),
    ):
        for _ in range(count):
            add_case(catalogue, number, split, is_annotated=is_annotated)
            number += 1
    return home


def make_conf(root: Path, *, cases: int = 2, steps: int = 4, every: int = 2) -> Path:
    """A configuration folder for it, with a small base."""
    conf = root / "conf"
    make_base(conf / "small")
    (conf / "labels.yaml").write_text(LABELS.model_dump_json())
    text = CONF_TEXT.format(cases=cases, steps=steps, every=every)
    (conf / "round-01.yaml").write_text(text.replace(f"cases: {cases}", "cases: 100"))
    (conf / "round-02.yaml").write_text(text)
    return conf


def pull_truth(home: Home, number: int) -> None:
    """Write what an expert's work of a round leaves, without an annotation tool."""
    folder = RoundFolder(home, number)
    catalogue = Catalogue(home)
    builder = AnnotationSetBuilder(LABELS, {"round": str(number)})
    for line in folder.manifest().cases:
        case = catalogue.get(line.at.case_id)
        _, bitmap = picture(int(case.case_id.removeprefix("case-")))
        image_id = builder.add_image(
            FrameRef(case_id=case.case_id, frame=0), (SIDE_PX, SIDE_PX), status="corrected"
        )
        builder.add_mask(image_id, "tube", masks.encode(bitmap), Origin.HUMAN)
    write_annotations(folder.file("annotations.coco.json"), builder.build())


def make_base(folder: Path) -> Path:
    """A base of the smallest sizes with random weights."""
    torch.manual_seed(1)
    save_base(build(SMALLEST), folder)
    return folder
