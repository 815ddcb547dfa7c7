"""One angiogram to masks and measurements: frame, tree, lesions, vessels, QCA. Never loads torch.

A box, when given, names the vessel; else lesion candidates of the automatic head do.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from pydantic import Field

from angio.dicom.read import cine_of, frames_of, modality_of, n_frames_of, open_dataset
from angio.frames import FrameChoice, choose_frame
from angio.qca import Lesion, measure
from angio.rendering import render_frame, upright_frame
from casebook import masks
from casebook.cases import PixelSpacing, View
from casebook.documents import Document
from casebook.errors import DataError, PromptError, QcaError
from casebook.labels import Label
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from casebook.regions import keep_main
from export.answers import StudentSegmenter

Box = tuple[float, float, float, float]
MOST_VESSELS = 3
"""Lesion candidates followed up in one frame."""
CANDIDATE_PX = 48.0
"""A candidate's box is at least this long: it may show only the middle of its segment."""
_ENDS = 0.3
"""How far beyond the box healthy ends are looked for, as a share of its longer side."""


def box_of(text: str | None) -> Box | None:
    """A box as a person writes it: x1,y1,x2,y2 in px.

    Raises:
        PromptError: it is not four numbers.
    """
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise PromptError(f"box {text!r}; expected x1,y1,x2,y2 in px") from None
    return x1, y1, x2, y2


class VesselResult(Document):
    """One vessel segment and its measurement."""

    number: int = Field(ge=1)
    prompt: str
    """`given` or `automatic`."""
    label: str | None = None
    """The vessel segment, where the operator named it."""
    cass: int | None = None
    """Its CASS number, where its label has one."""
    box_xyxy: Box
    score: float = Field(ge=0, le=1)
    uncertainty: float = Field(ge=0, le=1)
    area_px: int = Field(ge=0)
    lesion: Lesion | None = None
    ends_from_tree: bool = False
    """Healthy ends were taken from the tree's mask, as the segment's own are too short."""
    problem: str | None = None
    """Why it could not be measured."""


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
    model_id: str
    tree_area_px: int = Field(default=0, ge=0)
    tree_score: float | None = None
    vessels: tuple[VesselResult, ...] = ()
    notes: tuple[str, ...] = ()
    read_ms: float = Field(ge=0)
    analyse_ms: float = Field(ge=0)


@dataclass(frozen=True)
class Analysis:
    """A file's result with its pictures."""

    result: FrameResult
    pixels: UInt8[np.ndarray, "h w"]
    """The frame as rendered."""
    frame_ms: float | None
    """Time between frames of its run."""
    tree: Bool[np.ndarray, "h w"] | None
    vessels: tuple[Bool[np.ndarray, "h w"], ...]


def analyse(
    segmenter: StudentSegmenter,
    path: Path,
    case_id: str,
    *,
    box_xyxy: Box | None = None,
    frame: int | None = None,
    segment: Label | None = None,
) -> Analysis:
    """One DICOM file; a run is looked at frame by frame, so that its length does not matter.

    Args:
        segmenter: the student.
        path: an XA file.
        case_id: what its results are called.
        box_xyxy: around the vessel to measure, px; else lesion candidates are followed.
        frame: counted from 0; else the one that shows most.
        segment: what the vessel in the box is.

    Raises:
        DataError: the file cannot be used, or the box lies outside.
    """
    started = time.perf_counter()
    ds = open_dataset(path)
    if modality_of(ds) != "XA":
        raise DataError(
            f"{path.name} has modality {modality_of(ds)}; expected XA, an X-ray angiogram; leave "
            "it out"
        )
    choice = None
    if frame is None:
        choice = choose_frame(frames_of(ds, path.name, upright=True))
    chosen = choice.frame if choice else frame or 0
    cine = cine_of(ds, path.name, (chosen,))
    stored, pixels = upright_frame(cine), render_frame(cine)
    if not pixels.any():
        raise DataError(
            f"{path.name}: frame {chosen} is of one grey value; there is nothing to see in it; "
            "give another --frame or leave it out"
        )
    read_ms = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    embedding = segmenter.embed(Frame(pixels, cine.spacing, cine.views[0]))
    tree = tree_of(segmenter, embedding)
    notes = []
    if cine.spacing is None:
        notes.append("no pixel spacing in the header: lengths are in px")
    if choice is not None and n_frames_of(ds, path.name) > 1 and not choice.inflow_seen:
        notes.append("no contrast flows in or out during the run: look at the chosen frame")
    if box_xyxy is not None:
        asked = [("given", box_xyxy)]
    else:
        asked = [("automatic", found) for found in _candidates(segmenter, embedding)]
        if not asked:
            notes.append("no lesion candidate found; give --box to measure a vessel")
    vessels: list[VesselResult] = []
    bitmaps: list[Bool[np.ndarray, "h w"]] = []
    for number, (source, box) in enumerate(asked, start=1):
        around = tree.bitmap if tree else None
        vessel, bitmap = _vessel(segmenter, embedding, stored, around, number, source, box)
        if segment is not None and source == "given":
            vessel = vessel.with_(label=segment.name, cass=segment.code)
        vessels.append(vessel)
        bitmaps.append(bitmap)
    result = FrameResult(
        file=path.name,
        case_id=case_id,
        frame=chosen,
        frame_chosen=frame is None,
        choice=choice,
        n_frames=cine.n_frames,
        height_px=pixels.shape[0],
        width_px=pixels.shape[1],
        spacing=cine.spacing,
        view=cine.views[0],
        model_id=segmenter.model_id,
        tree_area_px=int(tree.bitmap.sum()) if tree else 0,
        tree_score=tree.score if tree else None,
        vessels=tuple(vessels),
        notes=tuple(notes),
        read_ms=read_ms,
        analyse_ms=1000 * (time.perf_counter() - started),
    )
    shown = tree.bitmap if tree else None
    return Analysis(result, pixels, cine.frame_ms, shown, tuple(bitmaps))


def tree_of(segmenter: StudentSegmenter, embedding: Embedding) -> Prediction | None:
    """The vessel tree of a frame, when the student has a map of it and sees one."""
    for one in segmenter.maps:
        if one.role == "tree":
            found = segmenter.predict(embedding, Prompt(concept=one.label))
            return found[0] if found else None
    return None


def _candidates(segmenter: StudentSegmenter, embedding: Embedding) -> list[Box]:
    """Boxes around the lesion candidates, best first."""
    boxes: list[Box] = []
    for one in segmenter.maps:
        if one.role != "lesion":
            continue
        for found in segmenter.predict(embedding, Prompt(concept=one.label))[:MOST_VESSELS]:
            x1, y1, x2, y2 = masks.box_of(found.bitmap)
            more = max(0.0, CANDIDATE_PX - max(x2 - x1, y2 - y1)) / 2
            box = (x1 - more, y1 - more, x2 + more, y2 + more)
            height, width = embedding.frame.hw
            boxes.append(
                (
                    max(box[0], 0.0),
                    max(box[1], 0.0),
                    min(box[2], width - 1.0),
                    min(box[3], height - 1.0),
                )
            )
    return boxes


def with_ends(
    bitmap: Bool[np.ndarray, "h w"], tree: Bool[np.ndarray, "h w"], box_xyxy: Box
) -> Bool[np.ndarray, "h w"]:
    """The segment with what the tree adds to it in and closely around its box."""
    x1, y1, x2, y2 = box_xyxy
    more = _ENDS * max(x2 - x1, y2 - y1)
    height, width = bitmap.shape
    top, left = max(int(y1 - more), 0), max(int(x1 - more), 0)
    bottom, right = min(int(y2 + more) + 1, height), min(int(x2 + more) + 1, width)
    both = bitmap.copy()
    both[top:bottom, left:right] |= tree[top:bottom, left:right]
    rows, columns = np.nonzero(bitmap)
    middle = len(rows) // 2
    return keep_main(both, [(float(columns[middle]), float(rows[middle]))])


def _measured(
    stored: UInt16[np.ndarray, "h w"],
    bitmap: Bool[np.ndarray, "h w"],
    tree: Bool[np.ndarray, "h w"] | None,
    box_xyxy: Box,
    spacing: PixelSpacing | None,
) -> tuple[Lesion, bool]:
    """The lesion of a segment, and whether its ends came from the tree.

    Raises:
        QcaError: it cannot be measured either way; says why the segment alone could not.
    """
    try:
        return measure(stored, bitmap, spacing), False
    except QcaError as problem:
        if tree is None or not bitmap.any():
            raise
        try:
            return measure(stored, with_ends(bitmap, tree, box_xyxy), spacing), True
        except QcaError:
            raise problem from None


def _vessel(
    segmenter: StudentSegmenter,
    embedding: Embedding,
    stored: UInt16[np.ndarray, "h w"],
    tree: Bool[np.ndarray, "h w"] | None,
    number: int,
    source: str,
    box_xyxy: Box,
) -> tuple[VesselResult, Bool[np.ndarray, "h w"]]:
    """One vessel by its box: its mask, and its measurement or why there is none."""
    try:
        found = segmenter.predict(embedding, Prompt(box_xyxy=box_xyxy))[0]
    except PromptError as problem:
        raise DataError(str(problem)) from None
    bitmap = keep_main(found.bitmap)
    lesion, from_tree, problem_text = None, False, None
    try:
        lesion, from_tree = _measured(stored, bitmap, tree, box_xyxy, embedding.frame.spacing)
    except QcaError as problem:
        problem_text = str(problem)
    vessel = VesselResult(
        number=number,
        prompt=source,
        box_xyxy=box_xyxy,
        score=found.score,
        uncertainty=found.uncertainty,
        area_px=int(bitmap.sum()),
        lesion=lesion,
        ends_from_tree=from_tree,
        problem=problem_text,
    )
    return vessel, bitmap
