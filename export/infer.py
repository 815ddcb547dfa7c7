"""One angiogram to masks and measurements: frame, tree, lesions, vessels, QCA. Never loads torch.

A box, when given, names the vessel; else lesion candidates of the automatic head do.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from pydantic import Field

from angio.dicom.read import Cine, read_cine
from angio.qca import Lesion, measure
from angio.rendering import render_frame, upright
from casebook import masks
from casebook.cases import PixelSpacing, View
from casebook.documents import Document
from casebook.errors import DataError, PromptError, QcaError
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from casebook.regions import keep_main
from export.answers import StudentSegmenter
from export.filling import fullest_frame

Box = tuple[float, float, float, float]
MOST_VESSELS = 3
"""Lesion candidates followed up in one frame."""
CANDIDATE_PX = 48.0
"""A candidate's box is at least this long: it may show only the middle of its segment."""
_ENDS = 0.3
"""How far beyond the box healthy ends are looked for, as a share of its longer side."""


class VesselResult(Document):
    """One vessel segment and its measurement."""

    number: int = Field(ge=1)
    prompt: str
    """`given` or `automatic`."""
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
    """By contrast filling, as none was given."""
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
    tree: Bool[np.ndarray, "h w"] | None
    vessels: tuple[Bool[np.ndarray, "h w"], ...]


def _chosen(cine: Cine, frame: int | None) -> int:
    if frame is None:
        return fullest_frame(cine)
    return cine.frames.index(frame)


def analyse(
    segmenter: StudentSegmenter,
    path: Path,
    case_id: str,
    *,
    box_xyxy: Box | None = None,
    frame: int | None = None,
) -> Analysis:
    """One DICOM file.

    Args:
        segmenter: the student.
        path: an XA file.
        case_id: what its results are called.
        box_xyxy: around the vessel to measure, px; else lesion candidates are followed.
        frame: counted from 0; else the best filled one.

    Raises:
        DataError: the file cannot be used, or the box lies outside.
    """
    started = time.perf_counter()
    cine = read_cine(path, None if frame is None else (frame,))
    at = _chosen(cine, frame)
    stored = upright(cine.pixels[at], inverted=cine.photometric == "MONOCHROME1", bits=cine.bits)
    pixels = render_frame(cine, at)
    read_ms = 1000 * (time.perf_counter() - started)
    started = time.perf_counter()
    embedding = segmenter.embed(Frame(pixels, cine.spacing, cine.views[at]))
    tree = _best(segmenter, embedding, "tree")
    notes = []
    if cine.spacing is None:
        notes.append("no pixel spacing in the header: lengths are in px")
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
        vessels.append(vessel)
        bitmaps.append(bitmap)
    result = FrameResult(
        file=path.name,
        case_id=case_id,
        frame=cine.frames[at],
        frame_chosen=frame is None,
        n_frames=cine.n_frames,
        height_px=pixels.shape[0],
        width_px=pixels.shape[1],
        spacing=cine.spacing,
        view=cine.views[at],
        model_id=segmenter.model_id,
        tree_area_px=int(tree.bitmap.sum()) if tree else 0,
        tree_score=tree.score if tree else None,
        vessels=tuple(vessels),
        notes=tuple(notes),
        read_ms=read_ms,
        analyse_ms=1000 * (time.perf_counter() - started),
    )
    return Analysis(result, pixels, tree.bitmap if tree else None, tuple(bitmaps))


def _best(segmenter: StudentSegmenter, embedding: Embedding, role: str) -> Prediction | None:
    for one in segmenter.maps:
        if one.role == role:
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
