"""What a push would do, worked out from the round's files alone. Knows no server."""

from collections import Counter
from collections.abc import Sequence

from casebook.annotations import AnnotationSet, CocoAnnotation
from casebook.documents import Document
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.rounds import Manifest
from cvat_sync.settings import ExchangeConfig

KEY_DIGITS = 12


class PlannedMask(Document):
    """A proposal on its way to CVAT."""

    file_name: str
    label: str
    annotation: CocoAnnotation


class PlannedTask(Document):
    """A task to be made: frames in the order CVAT will give them."""

    key: str
    name: str
    frames: tuple[str, ...]
    masks: tuple[PlannedMask, ...]


class PushPlan(Document):
    """Everything a push would do."""

    round: int
    project: str
    project_key: str
    frames_per_job: int
    tasks: tuple[PlannedTask, ...]

    @property
    def n_frames(self) -> int:
        """Frames in all."""
        return sum(len(task.frames) for task in self.tasks)

    @property
    def n_masks(self) -> int:
        """Proposed masks in all."""
        return sum(len(task.masks) for task in self.tasks)

    def lines(self) -> tuple[str, ...]:
        """The plan in words."""
        counts = Counter(mask.label for task in self.tasks for mask in task.masks)
        labels = ", ".join(f"{label} {count}" for label, count in sorted(counts.items()))
        empty = self.n_frames - len({m.file_name for task in self.tasks for m in task.masks})
        return (
            f"round {self.round:02d} → project {self.project!r}",
            f"  {len(self.tasks)} tasks, {self.n_frames} frames, "
            f"jobs of {self.frames_per_job} frames",
            f"  {self.n_masks} proposed masks ({labels or 'none'}); "
            f"{empty} frames without a proposal",
        )


def project_key(labels: LabelSet) -> str:
    """What we write into the bug tracker field of a label set's project."""
    return f"angioloop:project:{labels.name}"


def plan_push(
    manifest: Manifest,
    manifest_sha256: str,
    proposals: AnnotationSet,
    config: ExchangeConfig,
) -> PushPlan:
    """What pushing a round would do.

    Raises:
        DataError: a proposal is for a frame the manifest has not, or a label it does not know.
    """
    masks = _masks_by_frame(manifest, proposals)
    names = sorted(case.at.file_name for case in manifest.cases)
    stem = f"angioloop:round-{manifest.round:02d}:{manifest_sha256[:KEY_DIGITS]}"
    parts = _parts(names, config.frames_per_task)
    tasks = tuple(
        PlannedTask(
            key=f"{stem}:{number:03d}",
            name=f"round {manifest.round:02d} part {number:03d} of {len(parts):03d}",
            frames=tuple(part),
            masks=tuple(mask for name in part for mask in masks.get(name, ())),
        )
        for number, part in enumerate(parts, start=1)
    )
    return PushPlan(
        round=manifest.round,
        project=config.project or f"angioloop {manifest.labels.name}",
        project_key=project_key(manifest.labels),
        frames_per_job=config.frames_per_job,
        tasks=tasks,
    )


def _parts(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def _masks_by_frame(manifest: Manifest, proposals: AnnotationSet) -> dict[str, list[PlannedMask]]:
    wanted = {case.at.file_name for case in manifest.cases}
    images = {image.id: image.file_name for image in proposals.images}
    strangers = sorted(set(images.values()) - wanted)
    if strangers:
        raise DataError(
            f"round {manifest.round:02d}: proposals.coco.json has {len(strangers)} frames the "
            f"manifest has not ({strangers[0]} …); delete it and push again"
        )
    categories = {category.id: category.name for category in proposals.categories}
    masks: dict[str, list[PlannedMask]] = {}
    for annotation in proposals.annotations:
        name = images[annotation.image_id]
        label = manifest.labels.find(categories[annotation.category_id]).name
        planned = PlannedMask(file_name=name, label=label, annotation=annotation)
        masks.setdefault(name, []).append(planned)
    return masks
