"""Masks given out as DICOM SEG, each beside the de-identified frame it is of.

The catalogue keeps pictures, not the files of the hospital: a segmentation refers to the picture
given out with it, under UIDs keyed by the installation as all its other UIDs are. Knows no DICOM
element.
"""

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import Field

from angio.coco_files import whole_folder
from angio.datasets import DrawnFrame, Selection, frames
from angio.deident import key_of, remapped_uid
from angio.dicom.seg import Identity, Segment, write_frame, write_seg
from casebook import masks
from casebook.annotations import Origin
from casebook.catalogue import Catalogue
from casebook.documents import Document, sha256_of, sha256_of_file, write_document
from casebook.errors import DataError, StateError
from casebook.home import Home

Made = Literal["MANUAL", "SEMIAUTOMATIC", "AUTOMATIC"]
_MADE: dict[Origin, Made] = {
    Origin.HUMAN: "MANUAL",
    Origin.HUMAN_BOX: "SEMIAUTOMATIC",
    Origin.MODEL_REVIEWED: "SEMIAUTOMATIC",
}
"""Who made a mask, in DICOM's words; all others: AUTOMATIC."""
_KINDS: dict[str, Literal["segment", "lesion", "tree", "other"]] = {
    "segment": "segment", "lesion": "lesion", "tree": "tree",
}  # fmt: skip


class SegManifest(Document):
    """dataset.json of a folder of segmentations."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int | None
    frames: int
    segments: int
    files: dict[str, str]
    """SHA-256 by name."""


def write_segs(
    home: Home, folder: Path, wanted: Selection, cases: tuple[str, ...] = ()
) -> SegManifest:
    """Write FRAME.dcm and FRAME.seg.dcm for every frame of a selection.

    Args:
        home: The workspace.
        folder: A new folder.
        wanted: Which masks.
        cases: Only these, when given.

    Raises:
        ConfigError: the folder is there already.
        StateError: a case is not in the catalogue.
        DataError: nothing to write; or as `angio.datasets.frames`.
    """
    catalogue, key = Catalogue(home), key_of(home)
    for case_id in cases:
        catalogue.get(case_id)
    n_frames, n_segments = 0, 0
    with whole_folder(folder) as place:
        for frame in frames(home, wanted):
            if cases and frame.case.case_id not in cases:
                continue
            segments = _segments(frame)
            identity = _identity(key, frame, segments)
            stem = frame.at.file_name.removesuffix(".png")
            pixels = catalogue.frame(frame.at).pixels
            if pixels.shape != frame.hw:
                raise DataError(
                    f"{frame.at.file_name} has {pixels.shape} px, its masks {frame.hw}; import it "
                    "again"
                )
            spacing = frame.case.spacing
            shown = write_frame(place / f"{stem}.dcm", pixels, spacing, identity)
            write_seg(place / f"{stem}.seg.dcm", shown, segments, identity, version("angioloop"))
            n_frames, n_segments = n_frames + 1, n_segments + len(segments)
        if not n_frames:
            raise StateError(
                f"no frame has a mask for phase {wanted.phase.value} in what was asked for; import "
                "or annotate some, or give another phase"
            )
        manifest = SegManifest(
            round=wanted.round,
            frames=n_frames,
            segments=n_segments,
            files={path.name: sha256_of_file(path) for path in sorted(place.iterdir())},
        )
        write_document(place / "dataset.json", manifest)
    return manifest


def _segments(frame: DrawnFrame) -> tuple[Segment, ...]:
    seen: Counter[str] = Counter()
    found = []
    for one in frame.drawn:
        seen[one.label.name] += 1
        number = seen[one.label.name]
        made = _MADE.get(one.origin, "AUTOMATIC")
        found.append(
            Segment(
                name=one.label.name if number == 1 else f"{one.label.name} {number}",
                kind=_KINDS.get(one.label.role, "other"),
                cass=one.label.code,
                bitmap=masks.decode(one.mask),
                made=made,
                model_id=None if made == "MANUAL" else one.model_id or one.origin.value,
            )
        )
    return tuple(found)


def _identity(key: bytes, frame: DrawnFrame, segments: tuple[Segment, ...]) -> Identity:
    """UIDs that are the same for the same pixels and masks, and say nothing without the key."""
    case, stem = frame.case, frame.at.file_name
    drawn = sha256_of(
        b"".join(
            f"{one.name}|{one.made}|{one.model_id}|".encode() + entry.mask.packed
            for one, entry in zip(segments, frame.drawn, strict=True)
        )
    )
    return Identity(
        pseudonym=case.patient,
        study_uid=remapped_uid(key, f"export study {case.case_id}"),
        image_series_uid=remapped_uid(key, f"export frames {case.case_id}"),
        image_uid=remapped_uid(key, f"export frame {stem} {case.image_sha256}"),
        seg_series_uid=remapped_uid(key, f"export masks {case.case_id}"),
        seg_uid=remapped_uid(key, f"export mask {stem} {case.image_sha256} {drawn}"),
    )
