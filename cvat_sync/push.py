"""Push a round: frames and proposals into CVAT, so that a killed push resumes to the same end.

What was made is found again by the key we wrote, never by name; pushed.json comes last. Knows
neither the SDK nor the command line.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tenacity import Retrying

from casebook import masks
from casebook.catalogue import Catalogue
from casebook.documents import append_line, read_lines, sha256_of_file, write_document
from casebook.errors import DataError, DeidError
from casebook.labels import LabelSet
from casebook.rounds import Manifest, RoundFolder
from cvat_sync.labels import missing_labels
from cvat_sync.plan import PlannedMask, PlannedTask, PushPlan
from cvat_sync.pushed import JOURNAL, Pushed, PushedTask
from cvat_sync.remote import (
    CONFIDENCE,
    MODEL_ID,
    Gateway,
    RemoteAnnotations,
    RemoteLabel,
    RemoteProject,
    RemoteShape,
    RemoteTask,
)

Progress = Callable[[str, float], None]
"""Told what was done last and the fraction done in all."""
_LINKS = ".push-"


def check_frames(manifest: Manifest, catalogue: Catalogue) -> None:
    """Refuse to send a frame that is not proven de-identified or is not the one selected.

    Raises:
        DeidError: cases without a de-identification record.
        DataError: a frame is missing or has changed since the selection.
    """
    unproven, changed = [], []
    for entry in manifest.cases:
        if catalogue.get(entry.at.case_id).deid is None:
            unproven.append(entry.at.case_id)
        path = catalogue.frame_path(entry.at)
        if not path.exists() or sha256_of_file(path) != entry.image_sha256:
            changed.append(entry.at.file_name)
    if unproven:
        raise DeidError(
            f"round {manifest.round:02d}: {len(unproven)} cases have no de-identification record "
            f"({', '.join(unproven[:3])} …); nothing was sent. Import them again"
        )
    if changed:
        raise DataError(
            f"round {manifest.round:02d}: {len(changed)} frames are missing or changed since the "
            f"selection ({', '.join(changed[:3])} …); nothing was sent. Import them again"
        )


@contextmanager
def _flat_files(
    frames: Sequence[str], paths: Mapping[str, Path], near: Path
) -> Iterator[list[Path]]:
    """The frames under their flat names; hard links, for the SDK follows symbolic ones."""
    near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_LINKS, dir=near) as folder:
        flat = [Path(folder) / name for name in frames]
        for path in flat:
            try:
                os.link(paths[path.name], path)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(paths[path.name], path)
        yield flat


def shape_of(mask: PlannedMask, frame: int, label: RemoteLabel) -> RemoteShape:
    """A proposal as a CVAT mask, marked as a model's, with its score and model."""
    annotation = mask.annotation
    score = 1.0 if annotation.score is None else annotation.score
    values = {
        MODEL_ID: annotation.model_id or "",
        CONFIDENCE: str(round(100 * score)),
        **annotation.attributes,
    }
    return RemoteShape(
        id=None,
        frame=frame,
        label_id=label.id,
        type="mask",
        points=masks.to_cvat(masks.decode(annotation.mask)),
        source="auto",
        score=score,
        attributes={
            spec_id: values[name] for name, spec_id in label.attributes.items() if name in values
        },
    )


class _Push:
    """One push in progress."""

    def __init__(
        self, gateway: Gateway, retrying: Callable[[], Retrying], plan: PushPlan, near: Path
    ) -> None:
        self._gateway, self._retrying, self._plan, self._near = gateway, retrying, plan, near
        self._labels: dict[str, RemoteLabel] = {}
        self._project_id = 0

    def project(self, labels: LabelSet, *, add_labels: bool) -> RemoteProject:
        """Our project, made if there is none.

        Raises:
            DataError: it lacks labels of the label set.
        """
        found: RemoteProject = self._retrying()(self._find_or_create, labels)
        self._project_id = found.id
        remote = self._gateway.labels(found.id)
        lacking = missing_labels(labels, remote)
        if lacking and not add_labels:
            raise DataError(
                f"CVAT project {found.id} {found.name!r} lacks the labels {', '.join(lacking)}; "
                "add them there, or push with --add-labels"
            )
        if lacking:
            self._gateway.add_labels(found.id, labels, lacking)
            remote = self._gateway.labels(found.id)
        self._labels = {label.name: label for label in remote}
        return found

    def _find_or_create(self, labels: LabelSet) -> RemoteProject:
        key = self._plan.project_key
        ours = [
            project
            for project in self._gateway.projects()
            if project.key == key and project.name == self._plan.project
        ]
        if ours:
            return min(ours, key=lambda project: project.id)
        return self._gateway.create_project(self._plan.project, key, labels)

    def existing(self) -> dict[str, list[RemoteTask]]:
        """Tasks of the project by key."""
        tasks: dict[str, list[RemoteTask]] = {}
        for task in self._gateway.tasks(self._project_id):
            tasks.setdefault(task.key, []).append(task)
        return tasks

    def task(
        self, planned: PlannedTask, known: Sequence[RemoteTask], paths: Mapping[str, Path]
    ) -> PushedTask:
        """One task with its frames and masks, whatever an earlier attempt left behind."""
        attempts: list[Sequence[RemoteTask]] = [known]

        def attempt() -> PushedTask:
            found = attempts.pop() if attempts else self.existing().get(planned.key, [])
            return self._make(planned, found, paths)

        done: PushedTask = self._retrying()(attempt)
        return done

    def _make(
        self, planned: PlannedTask, found: Sequence[RemoteTask], paths: Mapping[str, Path]
    ) -> PushedTask:
        whole = [task for task in found if self._is_whole(task, planned)]
        kept = min(whole, key=lambda task: task.id) if whole else None
        for task in found:
            if task is not kept:
                self._gateway.delete_task(task.id)
        if kept is None:
            with _flat_files(planned.frames, paths, self._near) as files:
                kept = self._gateway.create_task(
                    self._project_id, planned.name, planned.key, files, self._plan.frames_per_job
                )
            if self._gateway.frame_names(kept.id) != planned.frames:
                raise DataError(
                    f"task {kept.id} {planned.name!r}: CVAT has other frames than were sent; "
                    "delete it there and push again"
                )
        if planned.masks:
            drawn = self._gateway.task_annotations(kept.id)
            # One write sets all masks: where anything is drawn, it happened, and people may have
            # begun. Only a task without anything gets its proposals now.
            if not drawn.shapes and not drawn.tags and drawn.n_tracks == 0:
                self._gateway.replace_annotations(kept.id, self._annotations(planned))
        return PushedTask(
            key=planned.key,
            task_id=kept.id,
            name=planned.name,
            frames=planned.frames,
            masks=len(planned.masks),
        )

    def _is_whole(self, task: RemoteTask, planned: PlannedTask) -> bool:
        if task.n_frames != len(planned.frames):
            return False
        return self._gateway.frame_names(task.id) == planned.frames

    def _annotations(self, planned: PlannedTask) -> RemoteAnnotations:
        position = {name: frame for frame, name in enumerate(planned.frames)}
        return RemoteAnnotations(
            tuple(
                shape_of(mask, position[mask.file_name], self._labels[mask.label])
                for mask in planned.masks
            )
        )


def push(
    folder: RoundFolder,
    plan: PushPlan,
    manifest: Manifest,
    gateway: Gateway,
    *,
    url: str,
    retrying: Callable[[], Retrying],
    parallel: int,
    add_labels: bool = False,
    progress: Progress = lambda _text, _fraction: None,
) -> Pushed:
    """Bring a planned round into CVAT and write pushed.json.

    Raises:
        DeidError: a case is not proven de-identified.
        DataError: a frame changed, or the project lacks labels.
        RemoteError: CVAT refused or stayed unreachable; run again to resume.
    """
    catalogue = Catalogue(folder.home)
    check_frames(manifest, catalogue)
    paths = {case.at.file_name: catalogue.frame_path(case.at) for case in manifest.cases}
    for left_behind in folder.path.glob(f"{_LINKS}*"):  # by a push that was killed
        shutil.rmtree(left_behind)
    work = _Push(gateway, retrying, plan, folder.path)
    project = work.project(manifest.labels, add_labels=add_labels)
    progress(f"project {project.id} {project.name!r}", 0.0)
    journal = folder.file(JOURNAL)
    existing = work.existing()
    alive = {task.id for tasks in existing.values() for task in tasks}
    done = {task.key: task for task in read_lines(journal, PushedTask) if task.task_id in alive}
    left = [task for task in plan.tasks if task.key not in done]
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        futures = [pool.submit(work.task, task, existing.get(task.key, []), paths) for task in left]
        try:
            for future in as_completed(futures):
                finished = future.result()
                append_line(journal, finished)
                done[finished.key] = finished
                progress(f"task {finished.task_id} {finished.name!r}", len(done) / len(plan.tasks))
        finally:
            for future in futures:
                future.cancel()
    pushed = Pushed(
        round=plan.round,
        url=url,
        project_id=project.id,
        project=project.name,
        manifest_sha256=folder.manifest_sha256(),
        tasks=tuple(done[task.key] for task in plan.tasks),
        at=datetime.now(UTC),
    )
    write_document(folder.file("pushed.json"), pushed)
    journal.unlink(missing_ok=True)
    folder.home.audit("push", f"round {plan.round:02d}", f"{len(plan.tasks)} tasks to {url}")
    return pushed
