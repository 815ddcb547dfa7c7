"""Pulled jobs as the round's annotations and corrections: every mask checked, none repaired.

Pure: from documents to documents. Knows no server.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool

from casebook import masks, polygons
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.boxes import BoxMask
from casebook.cases import FrameRef
from casebook.corrections import Corrections, MaskChange, Outcome
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.rounds import Manifest
from cvat_sync.compare import Drawn, compare
from cvat_sync.pulled import PulledJob, PulledShape
from cvat_sync.pushed import Pushed
from cvat_sync.remote import CONFIDENCE, MODEL_ID, REASON

Size = tuple[int, int]
"""Height and width, in px."""
_Identity = tuple[str, str, masks.Mask]
"""A mask with its frame's file name and its label."""


@dataclass(frozen=True)
class Compiled:
    """A round's results."""

    annotations: AnnotationSet
    corrections: Corrections
    refused: tuple[str, ...]
    """Each annotation that could not be used: where it is and why."""
    converted: tuple[str, ...] = ()
    """Each annotation that was made a mask of: where it is and what it was."""


@dataclass
class _Frame:
    """What the experts left on one frame."""

    shapes: list[PulledShape]
    tags: list[tuple[str, str | None]]
    """Label and reason."""
    notes: list[str]
    job_id: int
    annotator: str | None


def compile_round(
    manifest: Manifest,
    pushed: Pushed,
    proposals: AnnotationSet,
    jobs: Sequence[PulledJob],
    sizes: Mapping[str, Size],
    *,
    box_masks: Sequence[BoxMask] = (),
    deleted: Collection[str] = (),
) -> Compiled:
    """Annotations and corrections of the completed jobs; other frames stay pending.

    Args:
        manifest: What the round works on.
        pushed: What was brought to CVAT.
        proposals: What was proposed there.
        jobs: What came back.
        sizes: Height and width by file name.
        box_masks: What the model made of rectangles people drew.
        deleted: File names of frames somebody deleted in CVAT.
    """
    refused: list[str] = []
    converted: list[str] = []
    frames = _frames(pushed, jobs, refused)
    from_boxes = _from_boxes(box_masks)
    builder = AnnotationSetBuilder(manifest.labels, {"round": f"{manifest.round:02d}"})
    proposed = _proposals(proposals)
    changes: list[MaskChange] = []
    rejected: list[FrameRef] = []
    reject_labels = {label.name for label in manifest.labels.of_role("reject")}
    for entry in manifest.cases:
        name, hw = entry.at.file_name, sizes[entry.at.file_name]
        frame = frames.get(name)
        if name in deleted:
            rejected.append(entry.at)
            builder.add_image(entry.at, hw, status="rejected", reason="deleted in CVAT")
            continue
        if frame is None:
            builder.add_image(entry.at, hw)
            continue
        tagged = [reason for label, reason in frame.tags if label in reject_labels]
        if tagged:
            rejected.append(entry.at)
            reason = tagged[0] or "no reason given"
            builder.add_image(
                entry.at, hw, status="rejected", reason=reason, notes=tuple(frame.notes)
            )
            continue
        before = proposed.get(name, [])
        after, shapes = _results(frame, name, hw, manifest.labels, refused, converted)
        matches = compare(entry.at, before, after)
        changes.extend(match.change for match in matches)
        is_untouched = all(match.change.outcome == "accepted" for match in matches)
        status: Literal["ok", "corrected"] = "ok" if is_untouched else "corrected"
        image_id = builder.add_image(entry.at, hw, status=status, notes=tuple(frame.notes))
        for match in matches:
            if match.result is not None:
                result, shape = after[match.result], shapes[match.result]
                proposal = None if match.proposal is None else before[match.proposal]
                outcome = match.change.outcome
                source = _Source(shape, proposal, outcome, frame.annotator)
                if outcome == "added":
                    source = replace(source, box=from_boxes.get(_identity(name, result)))
                _add(builder, image_id, result, source)
    wanted = {entry.at.file_name for entry in manifest.cases}
    for name in sorted(set(frames) - wanted - set(deleted)):
        frame, ref = frames[name], FrameRef.from_file_name(name)
        if ref is None or any(label in reject_labels for label, _ in frame.tags):
            continue
        _add_context(builder, ref, frame, sizes[name], manifest.labels, refused, converted)
    corrections = Corrections(
        round=manifest.round, changes=tuple(changes), rejected=tuple(rejected)
    )
    return Compiled(builder.build(), corrections, tuple(refused), tuple(converted))


def _add_context(
    builder: AnnotationSetBuilder,
    ref: FrameRef,
    frame: _Frame,
    hw: Size,
    labels: LabelSet,
    refused: list[str],
    converted: list[str],
) -> None:
    """Add what was drawn on a frame around the one to annotate; an empty one was passed by."""
    found, shapes = _results(frame, ref.file_name, hw, labels, refused, converted)
    if not found:
        return
    image_id = builder.add_image(ref, hw, status="corrected", notes=tuple(frame.notes))
    for result, shape in zip(found, shapes, strict=True):
        _add(builder, image_id, result, _Source(shape, None, "added", frame.annotator))


def _from_boxes(box_masks: Sequence[BoxMask]) -> dict[_Identity, BoxMask]:
    return {
        (one.at.file_name, one.label, mask): one
        for one in box_masks
        if (mask := one.mask) is not None
    }


def _identity(name: str, result: Drawn) -> _Identity:
    return name, result.label, masks.encode(result.bitmap)


def _frames(pushed: Pushed, jobs: Sequence[PulledJob], refused: list[str]) -> dict[str, _Frame]:
    """What is on each frame of the jobs, by file name; an expert's ground truth comes first."""
    names = {task.task_id: task.frames for task in pushed.tasks}
    frames: dict[str, _Frame] = {}
    for job in sorted(jobs, key=lambda job: job.kind == "ground_truth"):
        by_number: dict[int, _Frame] = {}
        for number in job.positions:
            frame = _Frame([], [], [], job.job_id, job.annotator)
            by_number[number] = frames[names[job.task_id][number]] = frame
        for shape in job.shapes:
            if shape.frame in by_number:
                by_number[shape.frame].shapes.append(shape)
            else:
                refused.append(
                    f"job {job.job_id}, shape {shape.shape_id}: frame {shape.frame} is not in the "
                    f"job ({job.start_frame}–{job.stop_frame})"
                )
        for tag in job.tags:
            if tag.frame in by_number:
                by_number[tag.frame].tags.append((tag.label, tag.attributes.get(REASON)))
        for note in job.notes:
            if note.frame in by_number:
                by_number[note.frame].notes.append(note.text)
        if job.n_tracks:
            refused.append(f"job {job.job_id}: {job.n_tracks} tracks; masks are expected")
    return frames


def _proposals(proposals: AnnotationSet) -> dict[str, list[Drawn]]:
    names = {image.id: image.file_name for image in proposals.images}
    labels = {category.id: category.name for category in proposals.categories}
    found: dict[str, list[Drawn]] = {}
    for entry in proposals.annotations:
        drawn = Drawn(
            label=labels[entry.category_id],
            bitmap=masks.decode(entry.mask),
            model_id=entry.model_id,
            score=entry.score,
        )
        found.setdefault(names[entry.image_id], []).append(drawn)
    return found


def _results(
    frame: _Frame,
    name: str,
    hw: Size,
    labels: LabelSet,
    refused: list[str],
    converted: list[str],
) -> tuple[list[Drawn], list[PulledShape]]:
    """The masks of a frame that are sound, with the shapes they came from."""
    found: list[Drawn] = []
    shapes: list[PulledShape] = []
    for shape in frame.shapes:
        try:
            label = labels.find(shape.label).name
            bitmap = _bitmap(shape, hw)
        except DataError as problem:
            refused.append(
                f"job {frame.job_id}, {name}, {shape.label or 'no label'} "
                f"(shape {shape.shape_id}): {problem}"
            )
            continue
        if shape.type != "mask":
            area_px = int(np.count_nonzero(bitmap))
            converted.append(
                f"job {frame.job_id}, {name}, {label} (shape {shape.shape_id}): a {shape.type} "
                f"became a mask of {area_px} px"
            )
        found.append(Drawn(label, bitmap, shape.attributes.get(MODEL_ID)))
        shapes.append(shape)
    return found, shapes


def _bitmap(shape: PulledShape, hw: Size) -> Bool[np.ndarray, "h w"]:
    """A shape's pixels.

    Raises:
        DataError: damaged, empty, or of a type that has no pixels of its own.
    """
    if shape.type == "mask":
        bitmap = masks.from_cvat(shape.points, hw)
    elif shape.type == "polygon":
        if len(shape.points) % 2:
            raise DataError(f"polygon has {len(shape.points)} numbers; expected pairs of x and y")
        corners = zip(shape.points[::2], shape.points[1::2], strict=True)
        bitmap = polygons.from_polygon(list(corners), hw)
    else:
        raise DataError(f"a {shape.type} is not a mask; draw a mask, or call the interactor there")
    if not bitmap.any():
        raise DataError("mask is empty; delete it or draw it again")
    return bitmap


@dataclass(frozen=True)
class _Source:
    """Where a result comes from."""

    shape: PulledShape
    proposal: Drawn | None
    outcome: Outcome
    annotator: str | None
    box: BoxMask | None = None
    """What the model made of a rectangle, when the result is exactly that."""


def _add(builder: AnnotationSetBuilder, image_id: int, result: Drawn, source: _Source) -> None:
    """Add one result, with who made it."""
    shape, proposal, box = source.shape, source.proposal, source.box
    origin, model_id, score = Origin.HUMAN, None, None
    if proposal is not None and source.outcome == "accepted":
        origin, model_id, score = Origin.MODEL_REVIEWED, proposal.model_id, proposal.score
    elif box is not None:
        # A person drew the rectangle, saw the model's mask of it and completed the job again.
        origin, model_id, score = Origin.HUMAN_BOX, box.model_id, box.score
    elif proposal is None and shape.source == "auto":
        # A detector run in CVAT drew it, and the person who completed the job let it stand.
        origin, model_id, score = Origin.MODEL_REVIEWED, result.model_id, shape.score
    prompts = {Origin.HUMAN: None, Origin.HUMAN_BOX: "expert"}
    told = {MODEL_ID, CONFIDENCE}  # the annotation's own fields say it, and truly
    attributes = {name: value for name, value in shape.attributes.items() if name not in told}
    builder.add_mask(
        image_id,
        result.label,
        masks.encode(result.bitmap),
        origin,
        model_id=model_id,
        score=score,
        prompt_source=prompts.get(origin, "proposal"),
        annotator=source.annotator,
        attributes=attributes,
    )
