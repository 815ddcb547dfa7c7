"""A catalogue of a few small cases with masks a reader can check: no phantoms, no DICOM."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import Case, DeidRecord, PixelSpacing, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import sha256_of
from casebook.home import Home
from casebook.labels import LabelSet, read_labels

CORONARY = read_labels(Path(__file__).parents[3] / "conf" / "labels" / "coronary.yaml")
HW = (40, 48)
DEID = DeidRecord(method="drawn here", pixel_text="not applicable")


def bar(row: int) -> Bool[np.ndarray, "h w"]:
    """A horizontal vessel of 4 px."""
    bitmap = np.zeros(HW, dtype=bool)
    bitmap[row : row + 4, 6:40] = True
    return bitmap


def drawn(
    case: Case, masks_by_label: dict[str, int], origin: Origin, labels: LabelSet = CORONARY
) -> AnnotationSet:
    """Bars at the rows given."""
    builder = AnnotationSetBuilder(labels)
    image = builder.add_image(case.ref, HW, status="ok")
    for label, row in masks_by_label.items():
        builder.add_mask(image, label, masks.encode(bar(row)), origin)
    return builder.build()


def add_case(
    home: Home,
    name: str,
    split: Split,
    expert: dict[str, int],
    *,
    pseudo: dict[str, int] | None = None,
    segment: str | None = None,
    patient: str | None = None,
    seed: int | None = None,
    deid: DeidRecord | None = DEID,
) -> Case:
    """One case of one frame, with bars drawn by an expert and by another program."""
    number = seed if seed is not None else int.from_bytes(name.encode()[-4:], "big")
    pixels = np.random.default_rng(number).integers(60, 200, HW).astype(np.uint8)
    payload = png_bytes(pixels, PixelSpacing(row_mm=0.3, col_mm=0.2, source="calibrated"))
    case = Case(
        case_id=name, patient=patient or f"p-{name}", split=split, source="test", frame=0,
        n_frames=1, stored_frames=(0,), height_px=HW[0], width_px=HW[1], segment=segment,
        image_sha256=sha256_of(payload), deid=deid,
        spacing=PixelSpacing(row_mm=0.3, col_mm=0.2, source="calibrated"),
    )  # fmt: skip
    Catalogue(home).add(
        case,
        {0: payload},
        annotations=drawn(case, expert, Origin.HUMAN) if expert else None,
        pseudo=drawn(case, pseudo, Origin.PSEUDO) if pseudo else None,
    )
    return case


def study(root: Path) -> Home:
    """Two training cases, one for validation, one for test."""
    home = Home(root)
    add_case(
        home, "one", Split.TRAIN, {"mid LAD": 4}, pseudo={"coronary artery": 20}, segment="mid LAD"
    )
    add_case(home, "all", Split.TRAIN, {"proximal RCA": 2, "mid RCA": 10, "D1": 30})
    add_case(home, "val", Split.VAL, {"proximal LCX": 8, "stenosis": 8}, segment="proximal LCX")
    add_case(home, "tst", Split.TEST, {"OM1": 5}, segment="OM1")
    return home
