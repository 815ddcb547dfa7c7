"""Rectangles drawn where masks are wanted: the promoted model turns each into a mask to confirm.

The job goes back to its annotator first and then gets the mask, so that whoever dies in between
leaves a rectangle that the next pull finds again. Knows neither the SDK nor any model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from casebook import masks
from casebook.boxes import ASKED, BoxMask, DrawnBox, DrawnBoxes, answer_name, answers
from casebook.cases import FrameRef
from casebook.documents import write_document
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.rounds import RoundFolder
from cvat_sync.jobs import change_shape, reopen
from cvat_sync.pulled import PulledJob, PulledShape
from cvat_sync.pushed import Pushed
from cvat_sync.remote import CONFIDENCE, MODEL_ID, RemoteLabel, RemoteShape
from cvat_sync.rest import Rest

Ask = Callable[[str], None]
"""Has a worker write the round's file of this name, and waits for it."""


@dataclass(frozen=True)
class Found:
    """A rectangle, and the shape it is in CVAT."""

    box: DrawnBox
    job_id: int
    shape: PulledShape


def drawn_boxes(pushed: Pushed, labels: LabelSet, jobs: Sequence[PulledJob]) -> tuple[Found, ...]:
    """The labelled rectangles people drew on frames of their jobs."""
    frames = {task.task_id: task.frames for task in pushed.tasks}
    found = []
    for job in jobs:
        for shape in job.shapes:
            if shape.type != "rectangle" or shape.source == "auto" or len(shape.points) != 4:
                continue
            if shape.shape_id is None or shape.frame not in job.positions:
                continue
            try:
                label = labels.find(shape.label)
            except DataError:  # named by the compilation of the round
                continue
            at = FrameRef.from_file_name(frames[job.task_id][shape.frame])
            if label.kind != "mask" or at is None:
                continue
            x1, y1, x2, y2 = shape.points
            corners = ",".join(f"{value:.2f}" for value in shape.points)
            key = f"{job.job_id}:{shape.shape_id}:{corners}"
            box = DrawnBox(key=key, at=at, label=label.name, box_xyxy=(x1, y1, x2, y2))
            found.append(Found(box, job.job_id, shape))
    return tuple(found)


def answered(folder: RoundFolder, found: Sequence[Found], ask: Ask) -> dict[str, BoxMask]:
    """The model's masks for rectangles, by key; those not known yet are asked for."""
    known = {one.key: one for one in answers(folder)}
    waiting = tuple(one.box for one in found if one.box.key not in known)
    if waiting:
        path = folder.file(ASKED)
        write_document(path, DrawnBoxes(round=folder.number, boxes=waiting))
        ask(answer_name(path))
        known = {one.key: one for one in answers(folder)}
    return known


def give_back(
    rest: Rest,
    found: Sequence[Found],
    known: Mapping[str, BoxMask],
    labels: Sequence[RemoteLabel],
) -> tuple[int, ...]:
    """Put masks in the place of rectangles; the ids of the jobs that wait for a person again."""
    by_name = {label.name: label for label in labels}
    given: dict[int, list[tuple[Found, BoxMask, masks.Mask]]] = {}
    for one in found:
        answer = known.get(one.box.key)
        mask = None if answer is None else answer.mask
        if answer is not None and mask is not None:
            given.setdefault(one.job_id, []).append((one, answer, mask))
    for job_id, changes in given.items():
        reopen(rest, job_id)
        for one, answer, mask in changes:
            label = by_name[one.shape.label]
            values = {MODEL_ID: answer.model_id, CONFIDENCE: str(round(100 * answer.score))}
            shape = RemoteShape(
                id=one.shape.shape_id,
                frame=one.shape.frame,
                label_id=label.id,
                type="mask",
                points=masks.to_cvat(masks.decode(mask)),
                source="semi-auto",
                score=answer.score,
                attributes={
                    spec: values[name] for name, spec in label.attributes.items() if name in values
                },
            )
            change_shape(rest, job_id, shape)
    return tuple(given)
