"""What is found in one angiogram: vessels with their names and measurements. Knows no model."""

from typing import Literal

from pydantic import Field

from angio.frames import FrameChoice
from angio.qca import Lesion
from casebook.cases import PixelSpacing, View
from casebook.documents import Document
from export.namer import Side

Box = tuple[float, float, float, float]


class Learnt(Document):
    """What the bundle learnt to say of a lesion, beside QCA; each only where it passed its gate."""

    stenosis_pct: float | None = Field(default=None, ge=0, le=100)
    """Diameter stenosis."""
    mld_px: float | None = Field(default=None, gt=0)
    """Minimal lumen diameter."""
    rvd_px: float | None = Field(default=None, gt=0)
    """Reference diameter."""
    mld_mm: float | None = Field(default=None, gt=0)
    """In mm where the frame has a spacing."""
    rvd_mm: float | None = Field(default=None, gt=0)


class VesselResult(Document):
    """One vessel segment and its measurement."""

    number: int = Field(ge=1)
    prompt: str
    """`given` or `automatic`."""
    label: str | None = None
    """The vessel segment, where the operator named it or the classifier is sure."""
    label_source: Literal["given", "classifier"] | None = None
    label_score: float | None = Field(default=None, ge=0, le=1)
    """How probable the classifier's name is."""
    cass: int | None = None
    """Its CASS number, where its label has one."""
    artery: str | None = None
    """RCA, LM, LAD, LCX or ramus, by the label given or the classifier."""
    artery_score: float | None = Field(default=None, ge=0, le=1)
    box_xyxy: Box
    score: float = Field(ge=0, le=1)
    uncertainty: float = Field(ge=0, le=1)
    area_px: int = Field(ge=0)
    lesion: Lesion | None = None
    ends_from_tree: bool = False
    """Healthy ends were taken from the tree's mask, as the segment's own are too short."""
    problem: str | None = None
    """Why it could not be measured."""
    learnt: Learnt | None = None
    """What was learnt of such lesions says, where the bundle has that."""


class FrameResult(Document):
    """What was found in one file."""

    file: str
    case_id: str
    frame: int = Field(ge=0)
    """Counted from 0."""
    frame_chosen: bool
    """By filling, stillness and sharpness, as none was given."""
    choice: FrameChoice | None = None
    """Why that frame, when it was chosen."""
    n_frames: int = Field(ge=1)
    height_px: int
    width_px: int
    spacing: PixelSpacing | None = None
    view: View | None = None
    coronary: Side | None = None
    """Which coronary is filled, where the bundle's classifier is sure."""
    coronary_score: float | None = Field(default=None, ge=0, le=1)
    model_id: str
    tree_area_px: int = Field(default=0, ge=0)
    tree_score: float | None = None
    vessels: tuple[VesselResult, ...] = ()
    notes: tuple[str, ...] = ()
    read_ms: float = Field(ge=0)
    analyse_ms: float = Field(ge=0)
