"""What a push would do, worked out from the round's files alone. Knows no server."""

from collections import Counter
from collections.abc import Sequence

from casebook.documents import Document
from casebook.errors import DataError
from casebook.labels import LabelSet
from cvat_sync.proposals import Proposals
from cvat_sync.remote import TaskOptions
from cvat_sync.settings import ExchangeConfig
from cvat_sync.work import Work

KEY_DIGITS = 12
SEED_DIGITS = 7
"""Of the manifest's digest: the seed of CVAT's own random choices."""


class PlannedTask(Document):
    """A task to be made: frames in the order CVAT will give them."""

    key: str
    name: str
    frames: tuple[str, ...]
    masks: int
    """Proposed masks on them."""
    first_job: int
    """Number of its first job within the round: whose turn it is."""


class PushPlan(Document):
    """Everything a push would do."""

    round: int
    project: str
    project_key: str
    legacy_key: str
    """The key of projects made before a name of one's own became part of it."""
    frames_per_job: int
    tasks: tuple[PlannedTask, ...]
    labels: dict[str, int]
    """Proposed masks by label."""
    n_empty: int
    """Frames without a proposal."""
    link: str | None
    assignees: tuple[str, ...]
    options: TaskOptions

    def task_link(self, task: PlannedTask) -> str:
        """What goes into a task's issue tracker field: its key, behind the round's page if any."""
        return task.key if self.link is None else f"{self.link}#{task.key}"

    @property
    def n_frames(self) -> int:
        """Frames in all."""
        return sum(len(task.frames) for task in self.tasks)

    @property
    def n_masks(self) -> int:
        """Proposed masks in all."""
        return sum(task.masks for task in self.tasks)

    @property
    def n_jobs(self) -> int:
        """Jobs in all, without replicas and ground truth."""
        return sum(n_jobs(len(task.frames), self.frames_per_job) for task in self.tasks)

    def lines(self) -> tuple[str, ...]:
        """The plan in words."""
        labels = ", ".join(f"{label} {count}" for label, count in sorted(self.labels.items()))
        lines = [
            f"round {self.round:02d} → project {self.project!r}",
            f"  {len(self.tasks)} tasks, {self.n_frames} frames, "
            f"jobs of {self.frames_per_job} frames",
            f"  {self.n_masks} proposed masks ({labels or 'none'}); "
            f"{self.n_empty} frames without a proposal",
        ]
        if self.assignees:
            lines.append(f"  {self.n_jobs} jobs in turn to {', '.join(self.assignees)}")
        if self.options.replicas:
            lines.append(f"  {self.options.replicas} replicas of every job, for CVAT's consensus")
        if self.options.validation is not None:
            kind = self.options.validation.mode.replace("_", " ")
            lines.append(f"  {kind}: {self.options.validation.share:.0%} of each task's frames")
        return tuple(lines)


def project_key(labels: LabelSet, project: str | None = None) -> str:
    """What we write into the issue tracker field of a label set's project.

    A project named in the configuration is one of its own; people may rename it in CVAT.
    """
    key = f"angioloop:project:{labels.name}"
    return key if project is None else f"{key}:{project}"


def n_jobs(n_frames: int, frames_per_job: int) -> int:
    """Jobs CVAT cuts a task into."""
    return -(-n_frames // frames_per_job)


def plan_push(
    manifest: Work,
    manifest_sha256: str,
    proposals: Proposals,
    config: ExchangeConfig,
    runs: Sequence[Sequence[str]] = (),
) -> PushPlan:
    """What pushing a round would do.

    Args:
        manifest: What the round works on.
        manifest_sha256: Its digest: part of each task's key.
        proposals: What is proposed.
        config: How the round is cut.
        runs: File names of whole cines, each a task of one job; by default the manifest's frames.

    Raises:
        DataError: a proposal is for a frame the manifest has not, or a label it does not know.
    """
    names = sorted(case.at.file_name for case in manifest.cases)
    _check(manifest, names, proposals)
    stem = f"angioloop:round-{manifest.round:02d}:{manifest_sha256[:KEY_DIGITS]}"
    parts = [list(run) for run in runs] or _parts(names, config.frames_per_task)
    per_job = max(map(len, runs), default=config.frames_per_job)
    per_task = 1 if runs else n_jobs(config.frames_per_task, per_job)
    tasks = tuple(
        PlannedTask(
            key=f"{stem}:{number:03d}",
            name=f"round {manifest.round:02d} part {number:03d} of {len(parts):03d}",
            frames=tuple(part),
            masks=sum(sum(proposals.count(name).values()) for name in part),
            first_job=(number - 1) * per_task,
        )
        for number, part in enumerate(parts, start=1)
    )
    counts: Counter[str] = Counter()
    for name in names:
        counts.update(proposals.count(name))
    return PushPlan(
        round=manifest.round,
        project=config.project or f"angioloop {manifest.labels.name}",
        project_key=project_key(manifest.labels, config.project),
        legacy_key=project_key(manifest.labels),
        frames_per_job=per_job,
        tasks=tasks,
        labels=dict(counts),
        n_empty=sum(not proposals.count(name) for name in names),
        link=config.link,
        assignees=config.assignees,
        options=TaskOptions(
            subset=config.subset,
            replicas=config.replicas,
            validation=config.validation,
            seed=int(manifest_sha256[:SEED_DIGITS], 16),
        ),
    )


def _parts(names: Sequence[str], size: int) -> list[list[str]]:
    return [list(names[start : start + size]) for start in range(0, len(names), size)]


def _check(manifest: Work, names: Sequence[str], proposals: Proposals) -> None:
    strangers = sorted(proposals.file_names.difference(names))
    if strangers:
        raise DataError(
            f"round {manifest.round:02d}: proposals.coco.json has {len(strangers)} frames the "
            f"manifest has not ({strangers[0]} …); delete it and push again"
        )
    for label in proposals.labels:
        manifest.labels.find(label)
