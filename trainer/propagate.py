"""Carries the corrected masks of a round through their cines, frame by frame in both directions.

A mask is followed until the tracker loses it. What comes out are proposals for a person to look
at. Knows no annotation tool.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import (
    AnnotationSet,
    AnnotationSetBuilder,
    CocoImage,
    Origin,
    read_annotations,
    write_annotations,
)
from casebook.cases import Case, FrameRef
from casebook.errors import PromptError, StateError
from casebook.following import Follower
from casebook.protocols import Segmenter, Tracker
from segmenter.teacher import Teacher
from segmenter.tracking import MemoryTracker
from trainer.rounds_config import PropagateConfig
from trainer.teachers import load_incumbent
from trainer.work import Work

TRACKED = "tracked.coco.json"
_USABLE = frozenset({"ok", "corrected"})


@dataclass(frozen=True)
class Carried:
    """A mask on a neighbouring frame."""

    frame: int
    bitmap: Bool[np.ndarray, "h w"]
    score: float


def propagate(work: Work) -> str:
    """Write the round's carried masks, once.

    Raises:
        StateError: the round is not pulled, or no case of it keeps more than one frame.
    """
    folder = work.folder
    if folder.has(TRACKED):
        return f"{TRACKED} is there"
    how = f"Run `cvatsync pull --round {folder.number}` first."
    annotations = read_annotations(folder.need("annotations.coco.json", how))
    runs = [
        (image, case)
        for image in annotations.images
        if image.status in _USABLE
        and annotations.of_image(image.id)
        and len((case := work.catalogue.get(image.case_id)).stored_frames) > 1
        and image.frame == case.frame
    ]
    if not runs:
        raise StateError(
            f"round {folder.number:02d}: no reviewed case keeps more than its annotated frame; "
            "import whole cines to carry masks through them"
        )
    teacher = load_incumbent(work)
    tracker = tracker_of(teacher, work.config.propagate)
    manifest = folder.manifest()
    info = {"round": str(folder.number), "model_id": teacher.model_id}
    builder = AnnotationSetBuilder(manifest.labels, info)
    count = 0
    for done, (image, case) in enumerate(runs, start=1):
        count += _carry_case(work, tracker, teacher.model_id, image, case, annotations, builder)
        work.progress("propagate", f"{done} of {len(runs)} cines", done / len(runs))
    write_annotations(folder.file(TRACKED), builder.build())
    return f"{count} masks carried through {len(runs)} cines by {teacher.model_id}"


def tracker_of(teacher: Segmenter, config: PropagateConfig) -> Tracker:
    """The tracker the configuration names."""
    if config.tracker == "memory" and isinstance(teacher, Teacher):
        return MemoryTracker(teacher)
    return Follower(teacher)


def _carry_case(
    work: Work,
    tracker: Tracker,
    model_id: str,
    image: CocoImage,
    case: Case,
    annotations: AnnotationSet,
    builder: AnnotationSetBuilder,
) -> int:
    """Add the carried masks of a case's other frames; how many there are."""
    others = [frame for frame in case.stored_frames if frame != image.frame]
    hw = (image.height, image.width)
    ids = {
        frame: builder.add_image(FrameRef(case_id=case.case_id, frame=frame), hw)
        for frame in others
    }
    count = 0
    for entry in annotations.of_image(image.id):
        bitmap = masks.decode(entry.mask)
        for one in carried(work, tracker, case, image.frame, bitmap, work.config.propagate):
            builder.add_mask(
                ids[one.frame],
                annotations.label_of(entry),
                masks.encode(one.bitmap),
                Origin.TRACKED,
                model_id=model_id,
                score=one.score,
                prompt_source=f"frame {image.frame}",
            )
            count += 1
    return count


def carried(
    work: Work,
    tracker: Tracker,
    case: Case,
    start: int,
    bitmap: Bool[np.ndarray, "h w"],
    config: PropagateConfig,
) -> Iterator[Carried]:
    """The mask on the frames after and before, each way until it is lost."""
    frames = sorted(case.stored_frames)
    after = [frame for frame in frames if frame > start]
    before = [frame for frame in reversed(frames) if frame < start]
    for way in (after, before):
        yield from _one_way(work, tracker, case, (start, *way), bitmap, config)


def _one_way(
    work: Work,
    tracker: Tracker,
    case: Case,
    way: Sequence[int],
    bitmap: Bool[np.ndarray, "h w"],
    config: PropagateConfig,
) -> Iterator[Carried]:
    def frame_at(number: int) -> FrameRef:
        return FrameRef(case_id=case.case_id, frame=number)

    if len(way) == 1:
        return
    memory = tracker.start(work.catalogue.frame(frame_at(way[0])), bitmap)
    for number in way[1 : 1 + config.reach]:
        try:
            memory, found = tracker.step(memory, work.catalogue.frame(frame_at(number)))
        except PromptError:  # the object has left the image
            return
        if found.score < config.threshold or not found.bitmap.any():
            return
        yield Carried(number, found.bitmap, min(max(found.score, 0.0), 1.0))
