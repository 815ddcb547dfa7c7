"""The masks that come with a row of the lab's CSV: the expert's, and another program's.

Contours and expert masks belong to their image pixel by pixel and are never resized; a pseudo-label
of another size is, by nearest neighbour.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from angio.contours import Contours
from angio.lab_csv import LabRow
from angio.picture_files import read_bitmap
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import Case
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.masks import encode

MASK = "the mask file"
PSEUDO = "the pseudo-label file"


def read_mask(path: Path, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """An expert's mask, PNG or NPY, of the very size of its image.

    Raises:
        DataError: missing, unreadable, no mask, or of another size.
    """
    bitmap = read_bitmap(path, MASK)
    if bitmap.shape != hw:
        raise DataError(
            f"{MASK} has shape {bitmap.shape}; expected that of the image, {hw}; save it at the "
            "size of the image"
        )
    return bitmap


def read_pseudo_label(path: Path, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A pseudo-label, PNG or NPY, fitted to its image by nearest neighbour.

    Raises:
        DataError: missing, unreadable, no mask, empty, or of another shape of picture.
    """
    bitmap = read_bitmap(path, PSEUDO)
    if not bitmap.any():
        raise DataError(f"{PSEUDO} is empty; make it again")
    if bitmap.shape == hw:
        return bitmap
    if bitmap.shape[0] * hw[1] != bitmap.shape[1] * hw[0]:
        raise DataError(
            f"{PSEUDO} has shape {bitmap.shape}; expected the proportions of the image, {hw}; make "
            "it from this image"
        )
    grey = Image.fromarray(bitmap.astype(np.uint8))
    return np.asarray(grey.resize((hw[1], hw[0]), Image.Resampling.NEAREST)).astype(bool)


def drawn_of(
    row: LabRow, case: Case, labels: LabelSet, contours: Contours | None
) -> tuple[AnnotationSet | None, tuple[str, ...]]:
    """The expert's masks that came with a row, nothing when it brings none; and what was unusable.

    Raises:
        DataError: the expert's mask cannot be used.
    """
    hw = (case.height_px, case.width_px)
    if contours is None and row.mask is None:
        return None, ()
    segment = contours.bitmap(hw) if contours else read_mask(row.mask, hw) if row.mask else None
    if segment is None or not segment.any():
        raise DataError("the mask of the segment is empty; correct it")
    if row.segment is None:
        raise DataError(
            "annotated, but its segment is not one of the labels; correct cass_segment or "
            "vessel_pattern"
        )
    builder = AnnotationSetBuilder(labels, {"source": "csv"})
    image = builder.add_image(case.ref, hw, status="ok")
    builder.add_mask(
        image, row.segment, encode(segment), Origin.HUMAN, attributes=_measured(row, contours)
    )
    defects = _add_tree(builder, image, row, hw, labels) or ()
    return builder.build(), defects


def pseudo_of(
    row: LabRow, case: Case, labels: LabelSet
) -> tuple[AnnotationSet | None, tuple[str, ...]]:
    """The pseudo-label of a row that no expert has annotated; and what was unusable."""
    hw = (case.height_px, case.width_px)
    builder = AnnotationSetBuilder(labels, {"source": "csv"})
    image = builder.add_image(case.ref, hw)
    defects = _add_tree(builder, image, row, hw, labels)
    return (None if defects is None or defects else builder.build()), defects or ()


def _add_tree(
    builder: AnnotationSetBuilder, image: int, row: LabRow, hw: tuple[int, int], labels: LabelSet
) -> tuple[str, ...] | None:
    """Add the pseudo-label; nothing when the row has none, else what is wrong with it."""
    trees = labels.of_role("tree")
    if row.tree is None or not trees:
        return None
    try:
        bitmap = read_pseudo_label(row.tree, hw)
    except DataError as problem:
        return (f"{problem}; the case came in without it",)
    builder.add_mask(image, trees[0].name, encode(bitmap), Origin.PSEUDO)
    return ()


def _measured(row: LabRow, contours: Contours | None) -> dict[str, str]:
    given = {
        name.casefold(): f"{value:g}"
        for name, value in (contours.measurements if contours else {}).items()
        if "coord" not in name and "index" not in name
    }
    return {**given, **row.measurements}
