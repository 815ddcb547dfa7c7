"""A small workspace with a round ready to push: synthetic frames, a manifest and proposals."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case, DeidRecord, FrameRef, PixelSpacing, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of, write_document
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.rounds import Manifest, ManifestCase, RoundFolder

HW = (40, 48)
LABELS = LabelSet(
    name="test vessels",
    labels=(
        Label(name="LAD", role="segment"),
        Label(name="RCA", role="segment"),
        Label(name="stenosis", role="lesion"),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)
DEID = DeidRecord(method="synthetic", pixel_text="not applicable")


def bar(y: int, height: int = 4, x: int = 5, width: int = 30) -> Bool[np.ndarray, "h w"]:
    """A horizontal bar."""
    bitmap = np.zeros(HW, dtype=bool)
    bitmap[y : y + height, x : x + width] = True
    return bitmap


def add_case(home: Home, number: int, *, deid: DeidRecord | None = DEID) -> ManifestCase:
    """A case of one frame, in the catalogue."""
    pixels = np.full(HW, 10 + number, dtype=np.uint8)
    pixels[number % HW[0]] = 200
    payload = png_bytes(pixels, PixelSpacing(row_mm=0.3, col_mm=0.3, source="calibrated"))
    case = Case(
        case_id=f"case-{number:03d}",
        patient=f"patient-{number:03d}",
        split=Split.TRAIN,
        source="images",
        frame=3,
        n_frames=8,
        stored_frames=(3,),
        height_px=HW[0],
        width_px=HW[1],
        image_sha256=sha256_of(payload),
        deid=deid,
    )
    Catalogue(home).add(case, {3: payload})
    return ManifestCase(
        at=case.ref, patient=case.patient, split=case.split, image_sha256=case.image_sha256
    )


def make_round(
    root: Path, n_cases: int = 5, *, number: int = 2, deid: DeidRecord | None = DEID
) -> RoundFolder:
    """A round with a proposal of LAD at row 10 on every frame but the last."""
    home = Home(root)
    folder = RoundFolder(home, number)
    cases = tuple(add_case(home, i, deid=deid) for i in range(n_cases))
    manifest = Manifest(
        round=number,
        labels=LABELS,
        strategy="order",
        seed=1,
        cases=cases,
        val=(),
        test=(),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )
    write_document(folder.file("manifest.json"), manifest)
    builder = AnnotationSetBuilder(LABELS)
    for i, entry in enumerate(cases):
        image = builder.add_image(entry.at, HW)
        if i < n_cases - 1:
            builder.add_mask(
                image,
                "LAD",
                masks.encode(bar(10)),
                Origin.MODEL,
                model_id="round-01-abc",
                score=0.87,
            )
    write_annotations(folder.file("proposals.coco.json"), builder.build())
    return folder


def ref(number: int) -> FrameRef:
    """The frame of a case of `make_round`."""
    return FrameRef(case_id=f"case-{number:03d}", frame=3)
