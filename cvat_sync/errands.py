"""Tasks beside a round's own: a second look at some frames, whole cines with carried masks.

Planned once and written down, sent so that a killed sending ends the same, and collected into the
round's annotations when people are done. Knows neither the SDK nor the command line.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field
from tenacity import Retrying

from casebook.annotations import (
    AnnotationSet,
    read_annotations,
    write_annotations,
)
from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.documents import Document, read_document, sha256_of_file, write_document
from casebook.errors import DataError, DeidError
from casebook.rounds import RoundFolder
from cvat_sync.labels import named_as_pushed
from cvat_sync.pushed import Pushed, PushedTask, need_pushed
from cvat_sync.remote import (
    Gateway,
    NewTask,
    RemoteAnnotations,
    RemoteLabel,
    RemoteTask,
)
from cvat_sync.shapes import points_of, shape_of

Progress = Callable[[str, float], None]


class ErrandTask(Document):
    """A task to be made."""

    key: str
    name: str
    frames: tuple[str, ...]
    """File names in the order CVAT will show them."""
    masks: int = Field(ge=0)
    why: dict[str, str] = Field(default_factory=dict)
    """What to look at, by file name."""


class Errand(Document):
    """Tasks beside a round's own; sent once `pushed` is there."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    kind: Literal["review", "cines"]
    round: int = Field(ge=1)
    tasks: tuple[ErrandTask, ...]
    pushed: Pushed | None = None
    at: datetime

    @property
    def frames(self) -> frozenset[str]:
        """File names of all its frames."""
        return frozenset(name for task in self.tasks for name in task.frames)

    def lines(self) -> tuple[str, ...]:
        """The errand in words."""
        n_masks = sum(task.masks for task in self.tasks)
        head = f"round {self.round:02d}: {len(self.tasks)} tasks, {len(self.frames)} frames"
        tasks = [f"  {task.name}: {len(task.frames)} frames" for task in self.tasks]
        if self.pushed is not None:
            url, made = self.pushed.url, self.pushed.tasks
            tasks = [f"  {url}/tasks/{task.task_id}  {task.name}" for task in made]
        return (f"{head}, {n_masks} masks", *tasks)


def key_of(folder: RoundFolder, kind: str, part: str) -> str:
    """What we write into the issue tracker field of such a task."""
    return f"angioloop:{kind}-{folder.number:02d}:{folder.manifest_sha256()[:12]}:{part}"


def given_path_name(kind: str) -> str:
    """The file of the masks an errand is sent with."""
    return f"{kind}.coco.json"


def keep(folder: RoundFolder, errand: Errand, given: AnnotationSet) -> None:
    """Write an errand down before anything is sent: the masks first, the plan last."""
    write_annotations(folder.file(given_path_name(errand.kind)), given)
    write_document(folder.file(f"{errand.kind}.json"), errand)


def kept(folder: RoundFolder, kind: str) -> Errand | None:
    """The errand written down earlier, if any."""
    path = folder.file(f"{kind}.json")
    return read_document(path, Errand) if path.exists() else None


def check_frames(catalogue: Catalogue, frames: Sequence[str]) -> None:
    """Refuse to send a frame that is not kept or not proven de-identified.

    Raises:
        DeidError: a case has no de-identification record.
        DataError: a frame is not in the catalogue, or is not the one that was annotated.
    """
    for name in frames:
        ref = _ref(name)
        case = catalogue.get(ref.case_id)
        if case.deid is None:
            raise DeidError(
                f"case {ref.case_id} has no de-identification record; nothing was sent. Import it "
                "again"
            )
        path = catalogue.frame_path(ref)
        is_other = ref.frame == case.frame and path.exists()
        if not path.exists() or (is_other and sha256_of_file(path) != case.image_sha256):
            raise DataError(
                f"{name} is missing or changed since the import; nothing was sent. Import its case "
                "again"
            )


def _ref(name: str) -> FrameRef:
    ref = FrameRef.from_file_name(name)
    if ref is None:
        raise DataError(f"{name!r} is not a frame's name; expected CASE.f00000.png")
    return ref


def send(
    folder: RoundFolder,
    errand: Errand,
    gateway: Gateway,
    *,
    url: str,
    retrying: Callable[[], Retrying],
    progress: Progress = lambda _text, _fraction: None,
) -> Errand:
    """Bring an errand's tasks and masks into the round's project, once.

    Raises:
        DeidError: a case is not proven de-identified.
        DataError: a frame is missing, the project is not the round's or lacks a label, or a task
            was changed in CVAT.
        RemoteError: CVAT refused or stayed unreachable; run again to resume.
    """
    if errand.pushed is not None:
        return errand
    catalogue, round_ = Catalogue(folder.home), need_pushed(folder)
    check_frames(catalogue, sorted(errand.frames))
    keys = {task.key for task in round_.tasks}
    if not any(one.key in keys for one in gateway.tasks(round_.project_id)):
        raise DataError(
            f"project {round_.project_id} in this CVAT holds no task of round {folder.number:02d}; "
            f"set ANGIOLOOP_CVAT_URL to the server it was pushed to ({round_.url}). "
            "Nothing was sent"
        )
    given = read_annotations(folder.file(given_path_name(errand.kind)))
    there, _ = named_as_pushed(gateway.labels(round_.project_id), round_.labels)
    labels = {label.name: label for label in there}
    lacking = {given.label_of(entry) for entry in given.annotations} - set(labels)
    if lacking:
        raise DataError(
            f"CVAT project {round_.project_id} lacks the labels {', '.join(sorted(lacking))}; add "
            "them there and run again"
        )
    made = []
    for task in errand.tasks:

        def attempt(task: ErrandTask = task) -> PushedTask:
            return _make(round_.project_id, task, given, labels, catalogue, gateway)

        made.append(retrying()(attempt))
        progress(f"task {made[-1].task_id} {task.name!r}", len(made) / len(errand.tasks))
    sent = errand.with_(
        pushed=Pushed(
            round=folder.number,
            url=url,
            project_id=round_.project_id,
            project=round_.project,
            manifest_sha256=folder.manifest_sha256(),
            tasks=tuple(made),
            at=datetime.now(UTC),
        )
    )
    write_document(folder.file(f"{errand.kind}.json"), sent)
    folder.home.audit(errand.kind, f"round {folder.number:02d}", f"{len(made)} tasks to {url}")
    return sent


def _make(
    project_id: int,
    task: ErrandTask,
    given: AnnotationSet,
    labels: dict[str, RemoteLabel],
    catalogue: Catalogue,
    gateway: Gateway,
) -> PushedTask:
    """One task, whatever an earlier attempt left behind."""
    found = [one for one in gateway.tasks(project_id) if one.key == task.key]
    whole = [one for one in found if _is_whole(one, task, gateway)]
    for half in found:
        if half.n_frames and half not in whole:
            raise DataError(
                f"task {half.id} {half.name!r} has other frames than were sent; delete it in CVAT "
                "and run again"
            )
    there = min(whole, key=lambda one: one.id) if whole else None
    for half in found:
        if half is not there and half.n_frames == 0:  # its upload was killed
            gateway.delete_task(half.id)
    if there is None:
        paths = {name: catalogue.frame_path(_ref(name)) for name in task.frames}
        new = NewTask(project_id, task.name, task.key, paths, len(task.frames))
        there = gateway.create_task(new)
    drawn = gateway.task_annotations(there.id)
    if task.masks and not drawn.shapes and not drawn.tags and drawn.n_tracks == 0:
        gateway.replace_annotations(there.id, _annotations(task, given, labels))
    return PushedTask(
        key=task.key, task_id=there.id, name=task.name, frames=task.frames, masks=task.masks
    )


def _is_whole(found: RemoteTask, task: ErrandTask, gateway: Gateway) -> bool:
    return found.n_frames == len(task.frames) and gateway.frame_names(found.id) == task.frames


def _annotations(
    task: ErrandTask, given: AnnotationSet, labels: dict[str, RemoteLabel]
) -> RemoteAnnotations:
    place = {name: number for number, name in enumerate(task.frames)}
    return RemoteAnnotations(
        tuple(
            shape_of(entry, points_of(entry), place[image.file_name], labels[given.label_of(entry)])
            for image in given.images
            if image.file_name in place
            for entry in given.of_image(image.id)
        )
    )
