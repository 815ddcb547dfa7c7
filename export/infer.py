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
from angio.rendering import render, upright
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
    pixels = render(stored)
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
        vessel, bitmap = _vessel(segmenter, embedding, stored, number, source, box)
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
            boxes.append((float(x1), float(y1), float(x2), float(y2)))
    return boxes


def _vessel(
    segmenter: StudentSegmenter,
    embedding: Embedding,
    stored: UInt16[np.ndarray, "h w"],
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
    lesion, problem_text = None, None
    try:
        lesion = measure(stored, bitmap, embedding.frame.spacing)
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
        problem=problem_text,
    )
    return vessel, bitmap
