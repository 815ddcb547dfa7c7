"""One angiogram to masks and measurements: frame, tree, coronary, lesions, vessels, QCA.

A box or points, when given, show the vessel; else lesion candidates of the automatic head do.
Never loads torch.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16

from angio.dicom.read import cine_of, frames_of, modality_of, n_frames_of, open_dataset
from angio.frames import choose_frame
from angio.qca import Lesion, measure
from angio.rendering import render_frame, upright_frame
from casebook import masks
from casebook.cases import PixelSpacing, View
from casebook.errors import DataError, PromptError, QcaError
from casebook.labels import Label
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from casebook.regions import keep_main
from export.answers import StudentEmbedding, StudentSegmenter
from export.estimator import Look
from export.findings import Box, FrameResult, VesselResult
from export.namer import SIDES, Side, Sight, artery_of, name_segment, name_side
from export.pointer import Pointer

MOST_VESSELS = 3
"""Lesion candidates followed up in one frame."""
CANDIDATE_PX = 48.0
"""A candidate's box is at least this long: it may show only the middle of its segment."""
_SIDES: dict[str, Side] = {side: side for side in SIDES}
_ENDS = 0.3
"""How far beyond the box healthy ends are looked for, as a share of its longer side."""


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
    pointer: Pointer | None = None,
    frame: int | None = None,
) -> Analysis:
    """One DICOM file; a run is looked at frame by frame, so that its length does not matter.

    Args:
        segmenter: the student.
        path: an XA file.
        case_id: what its results are called.
        pointer: to the vessel to measure; else lesion candidates are followed.
        frame: counted from 0; else the one that shows most.

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
    names, pointer = segmenter.names, pointer or Pointer()
    around = tree.bitmap if tree else None
    sight = sight_of(segmenter, embedding, tree, cine.views[0]) if names else None
    side = name_side(names, sight) if names and sight else None
    asked: list[tuple[str, Prompt]] = []
    if pointer.prompt is not None:
        asked = [("given", pointer.prompt)]
    else:
        found = _candidates(segmenter, embedding)
        asked = [("automatic", Prompt(box_xyxy=box)) for box in found]
        if not asked:
            notes.append("no lesion candidate found; give --box to measure a vessel")
    vessels: list[VesselResult] = []
    bitmaps: list[Bool[np.ndarray, "h w"]] = []
    for number, (source, prompt) in enumerate(asked, start=1):
        vessel, bitmap = _vessel(segmenter, embedding, stored, around, number, source, prompt)
        given = pointer.segment if source == "given" else None
        vessels.append(_named(segmenter, sight, vessel, bitmap, given))
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
        coronary=_SIDES[side.name] if side else None,
        coronary_score=side.score if side else None,
        model_id=segmenter.model_id,
        tree_area_px=int(tree.bitmap.sum()) if tree else 0,
        tree_score=tree.score if tree else None,
        vessels=tuple(vessels),
        notes=tuple(notes),
        read_ms=read_ms,
        analyse_ms=1000 * (time.perf_counter() - started),
    )
    return Analysis(result, pixels, cine.frame_ms, around, tuple(bitmaps))


def tree_of(segmenter: StudentSegmenter, embedding: Embedding) -> Prediction | None:
    """The vessel tree of a frame, when the student has a map of it and sees one."""
    for one in segmenter.maps:
        if one.role == "tree":
            found = segmenter.predict(embedding, Prompt(concept=one.label))
            return found[0] if found else None
    return None


def sight_of(
    segmenter: StudentSegmenter,
    embedding: StudentEmbedding,
    tree: Prediction | None,
    view: View | None,
) -> Sight:
    """What the classifiers of coronary and segment look at."""
    bitmap = tree.bitmap if tree else None
    return Sight(segmenter.whole_maps(embedding), segmenter.whole_px, bitmap, view)


def look_of(
    segmenter: StudentSegmenter,
    embedding: StudentEmbedding,
    prompt: Prompt,
    found: Prediction,
    bitmap: Bool[np.ndarray, "h w"],
    lesion: Lesion | None,
) -> Look:
    """What a lesion is estimated from.

    Args:
        segmenter: the student.
        embedding: of the frame.
        prompt: a box or clicks …
        found: … and what it was answered …
        bitmap: … of which this is the vessel.
        lesion: QCA of that mask alone; none where it was refused.
    """
    window, maps = segmenter.window_maps(embedding, prompt)
    side, frame = segmenter.side_px, embedding.frame
    logits = bitmap.astype(np.float32) if found.logits is None else found.logits
    return Look(
        window.cut(frame.pixels, side),
        window.cut_values(bitmap.astype(np.float32), side, 0.0) > 0.5,
        window.cut_values(logits, side, 0.0),
        maps,
        window.side / side,
        lesion,
        found.score,
        found.uncertainty,
    )


def _named(
    segmenter: StudentSegmenter,
    sight: Sight | None,
    vessel: VesselResult,
    bitmap: Bool[np.ndarray, "h w"],
    given: Label | None,
) -> VesselResult:
    """The vessel with its name: the operator's, else the classifier's where it is sure."""
    if given is not None:
        artery = None if given.code is None else artery_of(given.code)
        return vessel.with_(label=given.name, label_source="given", cass=given.code, artery=artery)
    if segmenter.names is None or sight is None:
        return vessel
    segment, artery_found = name_segment(segmenter.names, sight, bitmap, segmenter.labels)
    if segment is not None:
        label = segmenter.labels.find(segment.name)
        vessel = vessel.with_(
            label=label.name,
            label_source="classifier",
            label_score=segment.score,
            cass=label.code,
        )
    if artery_found is not None:
        vessel = vessel.with_(artery=artery_found.name, artery_score=artery_found.score)
    return vessel


def _candidates(segmenter: StudentSegmenter, embedding: StudentEmbedding) -> list[Box]:
    """Boxes around the lesion candidates, best first."""
    boxes: list[Box] = []
    height, width = embedding.frame.hw
    for found in segmenter.lesions(embedding, MOST_VESSELS):
        x1, y1, x2, y2 = masks.box_of(found.bitmap)
        more = max(0.0, CANDIDATE_PX - max(x2 - x1, y2 - y1)) / 2
        low, high = (max(x1 - more, 0.0), max(y1 - more, 0.0)), (x2 + more, y2 + more)
        boxes.append((*low, min(high[0], width - 1.0), min(high[1], height - 1.0)))
    return boxes


def _box_around(bitmap: Bool[np.ndarray, "h w"], points_xy: Float64[np.ndarray, "n 2"]) -> Box:
    """The box of a mask that points asked for; that of the points when it is empty."""
    if bitmap.any():
        x1, y1, x2, y2 = masks.box_of(bitmap)
        return float(x1), float(y1), float(x2), float(y2)
    low, high = points_xy.min(axis=0), points_xy.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


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
        return measure(stored, bitmap, spacing, by_model=True), False
    except QcaError as problem:
        if tree is None or not bitmap.any():
            raise
        try:
            whole = with_ends(bitmap, tree, box_xyxy)
            return measure(stored, whole, spacing, by_model=True), True
        except QcaError:
            raise problem from None


def _vessel(
    segmenter: StudentSegmenter,
    embedding: StudentEmbedding,
    stored: UInt16[np.ndarray, "h w"],
    tree: Bool[np.ndarray, "h w"] | None,
    number: int,
    source: str,
    prompt: Prompt,
) -> tuple[VesselResult, Bool[np.ndarray, "h w"]]:
    """One vessel by its prompt: its mask, and its measurement or why there is none."""
    try:
        found = segmenter.predict(embedding, prompt)[0]
    except PromptError as problem:
        raise DataError(str(problem)) from None
    inside = prompt.points_xy[prompt.point_labels == 1]
    bitmap = keep_main(found.bitmap, [(float(x), float(y)) for x, y in inside])
    box_xyxy = prompt.box_xyxy or _box_around(bitmap, inside)
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
    if segmenter.estimator is not None and bitmap.any():
        own = None if from_tree else lesion
        look = look_of(segmenter, embedding, prompt, found, bitmap, own)
        learnt = segmenter.estimator.learnt(look, embedding.frame.spacing)
        vessel = vessel.with_(learnt=learnt)
    return vessel, bitmap
