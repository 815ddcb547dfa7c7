"""Pull a round: completed jobs only, job by job, checked, compared and sealed at the end.

Knows neither the SDK nor the command line.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from casebook.annotations import AnnotationSet, read_annotations, write_annotations
from casebook.catalogue import Catalogue
from casebook.corrections import Corrections, Effort
from casebook.documents import read_document, write_document
from casebook.errors import DataError, StateError
from casebook.rounds import RoundFolder
from cvat_sync.compile import Compiled, compile_round
from cvat_sync.effort import read_effort
from cvat_sync.pulled import PulledJob, job_path, pulled_job
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway, RemoteJob, RemoteLabel

Progress = Callable[[str, float], None]
_SHOWN = 5


@dataclass(frozen=True)
class PullResult:
    """A sealed round."""

    corrections: Corrections
    effort: Effort
    left_out: tuple[int, ...]
    """Ids of jobs that were not completed and were left out because that was allowed."""
    refused: tuple[str, ...]
    """Annotations that could not be used and were left out because that was allowed."""


def list_jobs(gateway: Gateway, pushed: Pushed, parallel: int) -> tuple[RemoteJob, ...]:
    """All jobs of a pushed round.

    Raises:
        DataError: a task of the round has no job any more.
    """
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        found = list(pool.map(gateway.jobs, [task.task_id for task in pushed.tasks]))
    for task, jobs in zip(pushed.tasks, found, strict=True):
        if sum(job.stop_frame - job.start_frame + 1 for job in jobs) < len(task.frames):
            raise DataError(
                f"round {pushed.round:02d}: task {task.task_id} {task.name!r} is gone from CVAT or "
                "has lost jobs; restore it there from a backup"
            )
    return tuple(job for jobs in found for job in jobs)


def is_complete(job: RemoteJob) -> bool:
    """Whether the annotator has declared the job done."""
    return job.state == "completed"


def _read_job(
    folder: RoundFolder, gateway: Gateway, job: RemoteJob, labels: Sequence[RemoteLabel]
) -> PulledJob:
    """A job from its file when it has not changed since, else from CVAT."""
    path = job_path(folder, job.id)
    if path.exists():
        kept = read_document(path, PulledJob)
        if kept.updated == job.updated:
            return kept
    pulled = pulled_job(job, gateway.job_annotations(job.id), gateway.issues(job.id), labels)
    write_document(path, pulled)
    return pulled


def pull(
    folder: RoundFolder,
    pushed: Pushed,
    gateway: Gateway,
    *,
    parallel: int,
    allow_incomplete: bool = False,
    progress: Progress = lambda _text, _fraction: None,
) -> PullResult:
    """Read the completed jobs of a round and, when all is there, seal its annotations.

    Raises:
        StateError: jobs are not completed, and that was not allowed; what is there was kept.
        DataError: annotations cannot be used, and that was not allowed; each is named.
        RemoteError: CVAT refused or stayed unreachable; run again to resume.
    """
    manifest = folder.manifest()
    proposals = read_annotations(folder.file("proposals.coco.json"))
    jobs = list_jobs(gateway, pushed, parallel)
    complete = [job for job in jobs if is_complete(job)]
    waiting = [job.id for job in jobs if not is_complete(job)]
    labels = gateway.labels(pushed.project_id)
    pulled: list[PulledJob] = []
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        reads = [pool.submit(_read_job, folder, gateway, job, labels) for job in complete]
        try:
            for read in reads:
                pulled.append(read.result())
                progress(f"job {pulled[-1].job_id}", len(pulled) / len(complete))
        finally:
            for read in reads:
                read.cancel()
    catalogue = Catalogue(folder.home)
    sizes = {}
    for entry in manifest.cases:
        case = catalogue.get(entry.at.case_id)
        sizes[entry.at.file_name] = (case.height_px, case.width_px)
    compiled = compile_round(manifest, pushed, proposals, pulled, sizes)
    if not allow_incomplete:
        _check_whole(folder, len(jobs), waiting, compiled)
    effort = read_effort(folder, pushed, complete, gateway)
    _seal(folder, compiled.annotations, compiled.corrections, effort)
    return PullResult(compiled.corrections, effort, tuple(waiting), compiled.refused)


def _check_whole(
    folder: RoundFolder, n_jobs: int, waiting: Sequence[int], compiled: Compiled
) -> None:
    problems = list(compiled.refused)
    if waiting:
        shown = ", ".join(map(str, waiting[:_SHOWN])) + (", …" if len(waiting) > _SHOWN else "")
        also = f" Also {len(problems)} annotations cannot be used." if problems else ""
        raise StateError(
            f"round {folder.number:02d}: {len(waiting)} of {n_jobs} jobs are not completed "
            f"(ids {shown}). Finish them in CVAT or pass --allow-incomplete.{also}"
        )
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"round {folder.number:02d}: {len(problems)} annotations cannot be used: "
            f"{'; '.join(problems[:_SHOWN])}{more}. Correct them in CVAT or pass "
            "--allow-incomplete to leave them out"
        )


def _seal(
    folder: RoundFolder, annotations: AnnotationSet, corrections: Corrections, effort: Effort
) -> None:
    """Write the three documents; the annotations last, for they are the round's state."""
    write_document(folder.file("effort.json"), effort)
    write_document(folder.file("corrections.json"), corrections)
    write_annotations(folder.file("annotations.coco.json"), annotations)
    kept = sum(image.status in {"ok", "corrected"} for image in annotations.images)
    folder.home.audit("pull", f"round {folder.number:02d}", f"{kept} frames reviewed")
