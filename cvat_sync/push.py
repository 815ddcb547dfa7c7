"""Push a round: frames and proposals into CVAT, so that a killed push resumes to the same end.

pushed.json comes last. Knows neither the SDK nor the command line.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from tenacity import Retrying

from casebook.catalogue import Catalogue
from casebook.documents import append_line, read_lines, sha256_of_file, write_document
from casebook.errors import DataError, DeidError
from casebook.rounds import ManifestCase, RoundFolder
from cvat_sync.cines import frame_paths
from cvat_sync.plan import PushPlan
from cvat_sync.proposals import Proposals
from cvat_sync.pushed import JOURNAL, Pushed, PushedTask, need_pushed
from cvat_sync.remote import RemoteLabel, RemoteTask, Server
from cvat_sync.shipment import Shipment, Tell
from cvat_sync.work import Work

Progress = Callable[[str, float], None]
"""Told what was done last and the fraction done in all."""
_READERS, _AT_ONCE = 4, 64
"""Threads that look at frames before anything is sent, and frames they are given at a time."""


def check_proven(manifest: Work, catalogue: Catalogue) -> None:
    """Refuse cases that are not proven de-identified.

    Raises:
        DeidError: cases without a de-identification record.
    """
    unproven: list[str] = []
    cases = iter(manifest.cases)
    while few := tuple(islice(cases, _AT_ONCE)):
        known = catalogue.several([entry.at.case_id for entry in few])
        unproven += [case.case_id for case in known if case.deid is None]
    if unproven:
        raise DeidError(
            f"round {manifest.round:02d}: {len(unproven)} cases have no de-identification record "
            f"({', '.join(unproven[:3])} …); nothing was sent. Import them again"
        )


def check_frames(manifest: Work, catalogue: Catalogue, stopped: threading.Event) -> None:
    """Refuse to send a frame that is not the one selected.

    Args:
        manifest: What the round works on.
        catalogue: Where its frames lie.
        stopped: Set when nobody waits for the answer any more.

    Raises:
        DataError: a frame is missing or has changed since the selection.
    """

    def is_selected(entry: ManifestCase) -> bool:
        path = catalogue.frame_path(entry.at)
        return path.exists() and sha256_of_file(path) == entry.image_sha256

    def others(entries: Sequence[ManifestCase]) -> list[str]:
        return [entry.at.file_name for entry in entries if not is_selected(entry)]

    changed: list[str] = []
    cases = iter(manifest.cases)
    with ThreadPoolExecutor(_READERS) as pool:
        while not stopped.is_set() and (few := tuple(islice(cases, _AT_ONCE))):
            for names in pool.map(others, (few[start::_READERS] for start in range(_READERS))):
                changed += names
    if changed:
        raise DataError(
            f"round {manifest.round:02d}: {len(changed)} frames are missing or changed since the "
            f"selection ({', '.join(sorted(changed)[:3])} …); no frame was sent. Import them again"
        )


def known_labels(folder: RoundFolder, url: str) -> dict[str, int]:
    """Ids of the labels by name, as the rounds pushed so far to this server found them."""
    known: dict[str, int] = {}
    for number in range(1, folder.number):
        earlier = RoundFolder(folder.home, number)
        if earlier.has("pushed.json"):
            pushed = need_pushed(earlier)
            known |= pushed.labels if pushed.url == url else {}
    return known


def push(
    folder: RoundFolder,
    plan: PushPlan,
    manifest: Work,
    proposals: Proposals,
    gateway: Server,
    *,
    url: str,
    retrying: Callable[[], Retrying],
    parallel: int,
    progress: Progress = lambda _text, _fraction: None,
    tell: Tell = lambda _line: None,
) -> Pushed:
    """Bring a planned round into CVAT and write pushed.json.

    Args:
        folder: The round.
        plan: What to do.
        manifest: What the round works on.
        proposals: What is proposed, as the plan was made with.
        gateway: The server.
        url: Its address, for pushed.json.
        retrying: Attempts at what is not safe to repeat blindly.
        parallel: Tasks brought at the same time.
        progress: Told what is done.
        tell: Told each change to the project's labels.

    Raises:
        DeidError: a case is not proven de-identified.
        DataError: a frame changed, or CVAT holds what people changed in a way we must not undo.
        RemoteError: CVAT refused or stayed unreachable; run again to resume.
    """
    catalogue, stopped = Catalogue(folder.home), threading.Event()
    check_proven(manifest, catalogue)
    with (
        Shipment(gateway, retrying, plan, proposals, catalogue) as work,
        ThreadPoolExecutor(max_workers=1) as apart,
    ):
        work.look()
        checked = apart.submit(check_frames, manifest, catalogue, stopped)
        try:
            for task in plan.tasks:
                frame_paths(task.frames, catalogue)
            project = work.project(manifest.labels, known_labels(folder, url), tell)
        except BaseException:
            stopped.set()  # thousands of frames are not gone through for nobody
            raise
        checked.result()
        work.draw(plan.tasks[:parallel])
        progress(f"project {project.id} {project.name!r}", 0.0)
        done = _tasks(work, plan, folder.file(JOURNAL), parallel, progress, retrying)
        labels: dict[str, RemoteLabel] = retrying()(lambda: work.labels)
    pushed = Pushed(
        round=plan.round,
        url=url,
        project_id=project.id,
        project=project.name,
        manifest_sha256=folder.manifest_sha256(),
        tasks=tuple(done[task.key] for task in plan.tasks),
        at=datetime.now(UTC),
        labels={
            label.name: labels[label.name].id
            for label in manifest.labels.labels
            if label.name in labels
        },
    )
    write_document(folder.file("pushed.json"), pushed)
    folder.file(JOURNAL).unlink(missing_ok=True)
    folder.home.audit("push", f"round {plan.round:02d}", f"{len(plan.tasks)} tasks to {url}")
    return pushed


def _tasks(
    work: Shipment,
    plan: PushPlan,
    journal: Path,
    parallel: int,
    progress: Progress,
    retrying: Callable[[], Retrying],
) -> dict[str, PushedTask]:
    """All tasks of a plan in CVAT, by key; each that is whole goes into the journal."""
    existing = work.before()
    alive = {task.id for tasks in existing.values() for task in tasks}
    planned = {task.key: task for task in plan.tasks}
    done = {
        task.key: task
        for task in read_lines(journal, PushedTask)
        if task.task_id in alive
        and task.key in planned
        and set(task.frames) == set(planned[task.key].frames)
    }
    left = [task for task in plan.tasks if task.key not in done]
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        futures = [pool.submit(work.task, task, existing.get(task.key, [])) for task in left]
        try:
            for future in as_completed(futures):
                finished = future.result()
                append_line(journal, finished)
                done[finished.key] = finished
                progress(f"task {finished.task_id} {finished.name!r}", len(done) / len(plan.tasks))
        finally:
            for future in futures:
                future.cancel()
    settled: dict[str, RemoteTask] = retrying()(work.sweep)
    for key, kept in settled.items():
        if kept.id != done[key].task_id:
            done[key] = work.task(planned[key], [kept])
    return done
