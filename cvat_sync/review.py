"""A second look at the frames where model and expert disagree most.

Pure but for the files of the round. Knows masks; knows no server.
"""

from datetime import UTC, datetime

from casebook.annotations import AnnotationSet, AnnotationSetBuilder, read_annotations
from casebook.corrections import Corrections, MaskChange
from casebook.documents import read_document
from casebook.errors import StateError
from casebook.labels import LabelSet
from casebook.rounds import RoundFolder
from cvat_sync.copies import copy_frame
from cvat_sync.errands import Errand, ErrandTask, keep, kept, key_of
from cvat_sync.settings import QualityConfig

KIND = "review"


def disagreements(corrections: Corrections) -> list[tuple[float, str, str]]:
    """Agreement, file name and reason of each frame that was changed, worst first.

    Agreement is the least IoU of a mask with its proposal; 0 where one was added or deleted.
    """
    worst: dict[str, tuple[float, str]] = {}
    for change in corrections.changes:
        if change.outcome == "accepted":
            continue
        iou = change.iou if change.outcome == "refined" and change.iou is not None else 0.0
        name = change.at.file_name
        if name not in worst or iou < worst[name][0]:
            worst[name] = (iou, _why(change, iou))
    return sorted((iou, name, why) for name, (iou, why) in worst.items())


def _why(change: MaskChange, iou: float) -> str:
    who = change.model_id or "the model"
    if change.outcome == "refined":
        return f"{change.label}: IoU {iou:.2f} with the proposal of {who}"
    if change.outcome == "deleted":
        return f"{change.label}: {who} proposed one, it was deleted"
    return f"{change.label}: added, {who} had proposed none there"


def plan_review(folder: RoundFolder, config: QualityConfig, frames_per_task: int) -> Errand:
    """The second look of a round: the one planned before, else the worst disagreements.

    Raises:
        StateError: the round is not pulled, or nothing in it was changed.
    """
    before = kept(folder, KIND)
    if before is not None:
        return before
    how = f"Run `cvatsync pull --round {folder.number}` first."
    annotations = read_annotations(folder.need("annotations.coco.json", how))
    corrections = read_document(folder.need("corrections.json", how), Corrections)
    rejected = {ref.file_name for ref in corrections.rejected}
    found = [one for one in disagreements(corrections) if one[1] not in rejected]
    if not found:
        raise StateError(
            f"round {folder.number:02d}: every proposal was accepted; there is nothing to look at "
            "a second time"
        )
    chosen = {name: why for _, name, why in found[: config.review_cases]}
    names = sorted(chosen)
    parts = [names[i : i + frames_per_task] for i in range(0, len(names), frames_per_task)]
    given = restricted(annotations, frozenset(chosen), folder.manifest().labels)
    counts = {image.file_name: len(given.of_image(image.id)) for image in given.images}
    return Errand(
        kind=KIND,
        round=folder.number,
        tasks=tuple(
            ErrandTask(
                key=key_of(folder, KIND, f"{number:03d}"),
                name=f"round {folder.number:02d} second look {number:03d} of {len(parts):03d}",
                frames=tuple(part),
                masks=sum(counts[name] for name in part),
                why={name: chosen[name] for name in part},
            )
            for number, part in enumerate(parts, start=1)
        ),
        at=datetime.now(UTC),
    )


def keep_review(folder: RoundFolder, errand: Errand) -> None:
    """Write the plan down with the masks as they are now; done once."""
    if kept(folder, KIND) is None:
        annotations = read_annotations(folder.file("annotations.coco.json"))
        keep(folder, errand, restricted(annotations, errand.frames, folder.manifest().labels))


def restricted(
    annotations: AnnotationSet, names: frozenset[str], labels: LabelSet
) -> AnnotationSet:
    """The annotations of some frames."""
    builder = AnnotationSetBuilder(labels, dict(annotations.info))
    for image in annotations.images:
        if image.file_name in names:
            copy_frame(builder, image, annotations)
    return builder.build()
