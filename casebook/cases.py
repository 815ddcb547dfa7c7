"""Cases: one run of images of one patient, with the frame that is annotated.

A case knows its pseudonym, never a patient. Angles follow DICOM PS3.3 C.8.7.5: LAO and cranial
are positive, RAO and caudal negative.
"""

import re
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from casebook.documents import Document

CaseId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
"""Safe as a file name, flat and unique in a catalogue."""

_FRAME_NAME = re.compile(r"^(?P<case>[A-Za-z0-9][A-Za-z0-9_-]{0,63})\.f(?P<frame>\d{5})\.png$")


class Split(StrEnum):
    """Which part of the data a patient belongs to, fixed before round 1."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class PixelSpacing(Document):
    """Millimetres per pixel, never without where the number comes from."""

    row_mm: float = Field(gt=0)
    """Distance between the centres of neighbouring rows."""
    col_mm: float = Field(gt=0)
    """Distance between the centres of neighbouring columns."""
    source: Literal["calibrated", "isocentre", "detector", "affine"]
    """Catheter or fiducial calibration; geometry at the isocentre; the detector plane; the affine
    of a reconstructed volume."""

    @property
    def mean_mm(self) -> float:
        """Mean of row and column spacing, in mm per px."""
        return (self.row_mm + self.col_mm) / 2


class View(Document):
    """Positioner angles in degrees. Source: DICOM PS3.3 C.8.7.5.1.2."""

    primary_deg: float = Field(ge=-180, le=180)
    """LAO positive, RAO negative."""
    secondary_deg: float = Field(ge=-180, le=180)
    """Cranial positive, caudal negative."""

    def __str__(self) -> str:
        """For instance `RAO 30 cranial 20`."""
        side = "LAO" if self.primary_deg >= 0 else "RAO"
        tilt = "cranial" if self.secondary_deg >= 0 else "caudal"
        return f"{side} {abs(self.primary_deg):.0f} {tilt} {abs(self.secondary_deg):.0f}"


class FrameRef(Document):
    """One frame of one case; `frame` counts from 0."""

    case_id: CaseId
    frame: int = Field(ge=0, le=99_999)

    @property
    def file_name(self) -> str:
        """The flat, unique name this frame has in CVAT and in COCO."""
        return f"{self.case_id}.f{self.frame:05d}.png"

    @classmethod
    def from_file_name(cls, name: str) -> "FrameRef | None":
        """The frame a file name stands for, or nothing when it is not one of ours."""
        found = _FRAME_NAME.match(name)
        return cls(case_id=found["case"], frame=int(found["frame"])) if found else None


class DeidRecord(Document):
    """What shows that a case's pixels and tags carry no identity."""

    method: str
    """Name and version of the procedure, for instance `keep-list 1 (PS3.15 Annex E)`."""
    kept_tags: tuple[str, ...] = ()
    """Keywords of the tags that were kept."""
    removed_elements: int = Field(default=0, ge=0)
    """How many elements of the source were dropped."""
    pixel_text: Literal["none found", "masked", "ruled clean", "not applicable"]
    """Burned-in text: the outcome of the check, or of a person's ruling."""
    masked_boxes_xyxy: tuple[tuple[int, int, int, int], ...] = ()
    """Areas painted over, x1 y1 x2 y2 in px, inclusive."""


class Case(Document):
    """One run of images and the frame of it that is annotated."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    case_id: CaseId
    patient: str
    """Keyed pseudonym: the unit of splitting."""
    split: Split
    source: str
    """Which import brought it: `csv`, `arcade`, `dicom`, `coco`, `yolo`, `images`, `nifti`."""
    frame: int = Field(ge=0)
    """The frame to annotate, counted from 0."""
    n_frames: int = Field(ge=1)
    """Frames of the original run."""
    stored_frames: tuple[int, ...] = ()
    """Frames kept in the catalogue (the annotated one and its unlabelled neighbours)."""
    height_px: int = Field(ge=1)
    width_px: int = Field(ge=1)
    spacing: PixelSpacing | None = None
    view: View | None = None
    vessel: str | None = None
    """RCA, LAD, LCX … as the reader named it."""
    segment: str | None = None
    """Label name of the analysed segment, when the clinical data names it."""
    phase: str | None = None
    """INDEX, PRE, POST, FINAL … as the source wrote it."""
    round: int | None = Field(default=None, ge=1)
    """The round this case was planned for, when the source says so."""
    lesion_box_xyxy: tuple[float, float, float, float] | None = None
    """The reader's rough rectangle around the lesion segment, in px; never from a mask."""
    image_sha256: str
    """SHA-256 of the rendered PNG of `frame`."""
    deid: DeidRecord | None = None
    extra: dict[str, str] = Field(default_factory=dict)
    """Columns of the source nobody asked for; nothing of a patient."""

    @property
    def ref(self) -> FrameRef:
        """The annotated frame."""
        return FrameRef(case_id=self.case_id, frame=self.frame)
