"""Cases from plain pictures of any domain: COCO, YOLO and folders come through here.

A plain picture has no header: what is kept are its pixels, looked over for burned-in text, and the
masks and boxes drawn on it. Knows no data set's layout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from angio.deident import keyed
from angio.intake import Incoming, Pictures
from angio.review import Desk
from angio.roster import Roster
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import Case, Split
from casebook.documents import sha256_of
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.masks import encode

METHOD = "plain picture: pixels only, no header or text of the source is kept"
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """One thing drawn on a picture: a mask of a label."""

    label: str
    bitmap: Bool[np.ndarray, "h w"]
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Boxed:
    """One thing a reader put a rectangle around: a prompt, never a mask."""

    label: str
    box_xyxy: Box


@dataclass(frozen=True)
class Plain:
    """A picture read from a data set."""

    name: str
    """Its file name within the data set."""
    pixels: UInt8[np.ndarray, "h w"]
    stored: UInt16[np.ndarray, "h w"] | None
    drawn: tuple[Drawn, ...] = ()
    box: Boxed | None = None
    split: Split | None = None


@dataclass(frozen=True)
class Source:
    """What goes for every picture of an import."""

    name: str
    """coco, yolo or images."""
    letter: str
    """First letter of its case ids."""
    labels: LabelSet
    roster: Roster
    desk: Desk
    ruled_clean: bool = False
    """A person has looked: no picture carries text."""

    def incoming(self, plain: Plain) -> Incoming:
        """The case of a picture.

        Raises:
            DataError: it has no owner in the roster, or a mask is empty.
            DeidError: it may carry text and nobody has ruled.
        """
        hw = (int(plain.pixels.shape[0]), int(plain.pixels.shape[1]))
        identity = f"{plain.name}|{sha256_of(np.ascontiguousarray(plain.pixels).tobytes())}|{hw}"
        owner = self.roster.owner(plain.name, f"{self.name}|{identity}", plain.split)
        pictures = Pictures(None, self.desk, patient=owner.pseudonym, source=plain.name)
        pictures.add(0, plain.pixels, None, stored=plain.stored, ruled_clean=self.ruled_clean)
        part = f"|{plain.box}" if plain.box else ""
        digest = keyed(self.roster.key, "case", f"{self.name}|{identity}{part}").hex()
        case = Case(
            case_id=f"{self.letter}{digest[:14]}",
            patient=owner.pseudonym,
            split=owner.split,
            source=self.name,
            frame=0,
            n_frames=1,
            stored_frames=(0,),
            height_px=hw[0],
            width_px=hw[1],
            segment=plain.box.label if plain.box else None,
            lesion_box_xyxy=plain.box.box_xyxy if plain.box else None,
            image_sha256=pictures.sha256(0),
            deid=pictures.record(METHOD),
        )
        return Incoming(
            case,
            pictures.frames,
            pictures.stored,
            annotations=annotations_of(case, plain.drawn, self.labels),
            patient_id=owner.patient_id,
            source_row=plain.name,
        )


def annotations_of(case: Case, drawn: Sequence[Drawn], labels: LabelSet) -> AnnotationSet | None:
    """What was drawn on a case's frame; nothing when nothing was.

    Raises:
        DataError: a mask is empty.
    """
    if not drawn:
        return None
    builder = AnnotationSetBuilder(labels, {"source": case.source})
    number = builder.add_image(case.ref, (case.height_px, case.width_px), status="ok")
    for one in drawn:
        if not one.bitmap.any():
            raise DataError(f"a mask of {one.label!r} holds no pixel; correct it or take it out")
        builder.add_mask(
            number, one.label, encode(one.bitmap), Origin.HUMAN, attributes=dict(one.attributes)
        )
    return builder.build()


def checked_box(box: Box, hw: tuple[int, int], outside_px: float = 1.0) -> Box:
    """A box cut to its picture.

    Raises:
        DataError: empty, or further outside than rounding explains.
    """
    x1, y1, x2, y2 = box
    height, width = hw
    inside = min(x1, y1) >= -outside_px and x2 <= width + outside_px and y2 <= height + outside_px
    if not (x1 < x2 and y1 < y2 and inside):
        raise DataError(
            f"a box {x1:.1f},{y1:.1f},{x2:.1f},{y2:.1f} px is empty or outside the picture of "
            f"{width}×{height} px; correct it"
        )
    return max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))


def picture_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """The files of some kinds under a folder, hidden ones left out, in the order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.casefold() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
