"""What a phantom study knows of itself: the models written to its truth folder."""

from pathlib import Path
from typing import Literal

from casebook.documents import Document, read_document

TRUTH_FILE = "truth.json"


class LesionTruth(Document):
    """A narrowing as built, in three dimensions and as projected on the analysed frame."""

    mld_mm: float
    """Minimal lumen diameter in the vessel, not in the picture."""
    rvd_mm: float
    """Reference diameter at the minimum, interpolated between the ends of the narrowing."""
    stenosis_pct: float
    lesion_length_mm: float
    """Along the centreline in three dimensions."""
    mld_px: float
    """Projected diameter at the minimum."""
    rvd_px: float
    px_per_mm: float
    """Magnification at the minimum's own depth; the isocentre's differs slightly."""
    mld_xy: tuple[float, float]
    start_xy: tuple[float, float]
    end_xy: tuple[float, float]


class CaseTruth(Document):
    """One analysed segment on one frame."""

    row_id: str
    """Equal to the CSV's column of that name."""
    patient_id: str
    dicom: str
    """Path in the study."""
    frame: int
    """Counted from 0."""
    split: Literal["train", "val", "test", "unseen"]
    round: int
    annotated: bool
    """Whether the study gives away this case's contours."""
    cass: int
    vessel: str
    box_xyxy: tuple[int, int, int, int]
    """Around the analysed segment, inclusive."""
    primary_deg: float
    secondary_deg: float
    spacing_mm: float
    """Millimetres per px at the isocentre."""
    lesion: LesionTruth
    segment: str
    """Path of the analysed segment's mask (PNG 0/255)."""
    tree: str
    """Path of the filled tree's mask (PNG 0/255)."""
    cass_map: str
    """Path of the picture whose values are CASS numbers, 0 elsewhere."""


class StudyTruth(Document):
    """A whole phantom study."""

    phantom_version: int
    seed: int
    cases: tuple[CaseTruth, ...]


def read_truth(study: Path) -> StudyTruth:
    """The truth of a study written by `write_study`.

    Raises:
        DataError: the folder has none.
    """
    return read_document(study / "truth" / TRUTH_FILE, StudyTruth)
