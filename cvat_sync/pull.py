"""Pull a round: completed jobs only, job by job, checked, compared and sealed at the end.

Knows neither the SDK nor the command line.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from casebook.annotations import AnnotationSet, read_annotations, write_annotations
from casebook.boxes import answers
from casebook.catalogue import Catalogue
from casebook.corrections import Corrections, Effort
from casebook.documents import read_document, write_bytes, write_document
from casebook.errors import DataError, StateError
from casebook.rounds import RoundFolder
from cvat_sync.cines import frame_sizes
from cvat_sync.compile import Compiled, compile_round
from cvat_sync.effort import read_effort, with_outcomes
from cvat_sync.labels import check_there, named_as_pushed
from cvat_sync.pulled import PulledJob, job_path, pulled_job
from cvat_sync.pushed import Pushed, PushedTask
from cvat_sync.remote import Gateway, RemoteJob, RemoteLabel

Progress = Callable[[str, float], None]
GiveBack = Callable[[Sequence[PulledJob], Sequence[RemoteLabel]], tuple[int, ...]]
"""Makes masks of what people drew instead; the ids of the jobs that wait for a person again."""
EARLIER = "annotations.coco.earlier.json"
"""What a round was sealed with before it was sealed anew."""
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
    told: tuple[str, ...] = ()
    """What was taken otherwise than it is in CVAT: renamed labels, polygons, deleted frames."""


@dataclass(frozen=True)
class _Server:
    """What is asked of the server once, before the jobs are read."""

    jobs: tuple[RemoteJob, ...]
    replicas: tuple[RemoteJob, ...]
    labels: tuple[RemoteLabel, ...]
    told: tuple[str, ...]


def list_jobs(gateway: Gateway, pushed: Pushed, parallel: int) -> tuple[RemoteJob, ...]:
    """All jobs of a pushed round that count: behind honeypots the ground truth does too.

    Raises:
        DataError: a task of the round has no job any more, or is not the one that was pushed.
    """
    return _jobs_and_replicas(gateway, pushed, parallel)[0]


def _jobs_and_replicas(
    gateway: Gateway, pushed: Pushed, parallel: int
) -> tuple[tuple[RemoteJob, ...], tuple[RemoteJob, ...]]:
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        there = pool.submit(gateway.tasks, pushed.project_id)
        found = list(pool.map(gateway.all_jobs, [task.task_id for task in pushed.tasks]))
        keys = {task.id: task.key for task in there.result()}
    counting: list[RemoteJob] = []
    for task, jobs in zip(pushed.tasks, found, strict=True):
        ours = [job for job in jobs if job.kind in _counting_kinds(task)]
        if sum(job.stop_frame - job.start_frame + 1 for job in ours) < len(task.frames):
            raise DataError(
                f"round {pushed.round:02d}: task {task.task_id} {task.name!r} is gone from CVAT or "
                "has lost jobs; restore it there from a backup, or do without what was drawn in it "
                "(docs/cvat.md, Pull). It was pushed to "
                f"{pushed.url}: ANGIOLOOP_CVAT_URL must name the same server"
            )
        if keys.get(task.task_id) != task.key:
            raise DataError(_stranger(pushed, task, keys.get(task.task_id)))
        counting += ours
    replicas = tuple(job for jobs in found for job in jobs if job.kind == "consensus_replica")
    return tuple(counting), replicas


def _stranger(pushed: Pushed, task: PushedTask, key: str | None) -> str:
    """What to say of a task that has the number of ours and is not ours."""
    where = f"round {pushed.round:02d}: task {task.task_id} in this CVAT is not {task.name!r}, "
    if key is None:
        found = f"for it is not in project {pushed.project_id} {pushed.project!r}"
        advice = "bring the task back into its project"
    else:
        found = f"for its issue tracker field says {key!r} and not {task.key!r}"
        advice = "write that back into the field"
    return (
        f"{where}{found}. Set ANGIOLOOP_CVAT_URL to the server it was pushed to ({pushed.url}); "
        f"or, if this is that server, {advice}"
    )


def _counting_kinds(task: PushedTask) -> frozenset[str]:
    return frozenset(
        {"annotation", "ground_truth"} if task.validation == "honeypots" else {"annotation"}
    )


def is_complete(job: RemoteJob) -> bool:
    """Whether the annotator has declared the job done."""
    return job.state == "completed"


def changed_jobs(
    folder: RoundFolder, pushed: Pushed, gateway: Gateway, parallel: int
) -> tuple[int, ...]:
    """Ids of completed jobs that are not as they were when they were last pulled."""
    jobs = list_jobs(gateway, pushed, parallel)
    return tuple(job.id for job in jobs if is_complete(job) and _kept(folder, job) is None)


def _kept(folder: RoundFolder, job: RemoteJob) -> PulledJob | None:
    """What was pulled of a job, when it has not changed since."""
    path = job_path(folder, job.id)
    if not path.exists():
        return None
    kept = read_document(path, PulledJob)
    return kept if kept.updated == job.updated else None


def _check_not_older(folder: RoundFolder, jobs: Sequence[RemoteJob]) -> None:
    """Refuse to replace what was pulled by something older.

    Raises:
        DataError: CVAT was restored from a backup, or its clock was set back.
    """
    older = []
    for job in jobs:
        path = job_path(folder, job.id)
        if path.exists() and read_document(path, PulledJob).updated > job.updated:
            older.append(job.id)
    if older:
        ids = ", ".join(map(str, older[:_SHOWN])) + (", …" if len(older) > _SHOWN else "")
        raise DataError(
            f"round {folder.number:02d}: {len(older)} jobs in CVAT are older than what was pulled "
            f"of them (ids {ids}); was CVAT restored from a backup? Pass --force to take them as "
            "they are there now"
        )


def _read_job(
    folder: RoundFolder, gateway: Gateway, job: RemoteJob, labels: Sequence[RemoteLabel]
) -> PulledJob:
    """A job from its file when it has not changed since, else from CVAT."""
    kept = _kept(folder, job)
    if kept is not None:
        return kept
    frames = gateway.job_frames(job.id) if job.kind == "ground_truth" else None
    drawn, issues = gateway.job_annotations(job.id), gateway.issues(job.id)
    pulled = pulled_job(job, drawn, issues, labels, frames)
    # Compact: a dense mask has thousands of numbers, and nobody reads them here.
    write_bytes(job_path(folder, job.id), pulled.model_dump_json().encode() + b"\n")
    return pulled


def _look(gateway: Gateway, pushed: Pushed, parallel: int, *, force: bool) -> _Server:
    jobs, replicas = _jobs_and_replicas(gateway, pushed, parallel)
    there = gateway.labels(pushed.project_id)
    if not force:
        check_there(pushed.labels, there)
    labels, renamed = named_as_pushed(there, pushed.labels)
    return _Server(jobs, replicas, labels, renamed)


def deleted_frames(gateway: Gateway, pushed: Pushed, parallel: int) -> dict[str, str]:
    """A line for each frame somebody deleted in CVAT, by file name."""
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        found = list(pool.map(gateway.deleted_frames, [task.task_id for task in pushed.tasks]))
    lines: dict[str, str] = {}
    for task, positions in zip(pushed.tasks, found, strict=True):
        gone = {task.frames[position] for position in positions if position < len(task.frames)}
        left = {name for i, name in enumerate(task.frames) if i not in set(positions)}
        for name in sorted(gone - left):  # a honeypot may be deleted in one of its places
            lines[name] = f"frame {name} was deleted in CVAT, and counts as rejected"
    return lines


def pull(
    folder: RoundFolder,
    pushed: Pushed,
    gateway: Gateway,
    *,
    parallel: int,
    allow_incomplete: bool = False,
    force: bool = False,
    give_back: GiveBack = lambda _jobs, _labels: (),
    progress: Progress = lambda _text, _fraction: None,
) -> PullResult:
    """Read the completed jobs of a round and, when all is there, seal its annotations.

    Args:
        folder: The round.
        pushed: What was brought to CVAT.
        gateway: The server.
        parallel: Jobs read at the same time.
        allow_incomplete: Seal without open jobs and damaged masks.
        force: Replace what is sealed, and what was pulled later than CVAT's own state; take what
            was drawn with a label that is gone as deleted.
        give_back: Told the completed jobs; says which of them a person must see again.
        progress: Told what is done.

    Raises:
        StateError: jobs are not completed, and that was not allowed; what is there was kept. Or
            the round is sealed, and that was not to be replaced.
        DataError: annotations cannot be used, and that was not allowed; each is named. Or a task
            or label of the round is gone from CVAT.
        RemoteError: CVAT refused or stayed unreachable; run again to resume.
    """
    if folder.has("annotations.coco.json") and not force:
        raise StateError(
            f"round {folder.number:02d} is sealed already; pass --force to seal it anew"
        )
    manifest = folder.manifest()
    proposals = read_annotations(folder.file("proposals.coco.json"))
    server = _look(gateway, pushed, parallel, force=force)
    complete = [job for job in server.jobs if is_complete(job)]
    again = [job for job in server.replicas if is_complete(job)]
    if not force:
        _check_not_older(folder, [*complete, *again])
    read = _read_jobs(folder, gateway, [*complete, *again], server.labels, parallel, progress)
    pulled = [job for job in read if job.kind != "consensus_replica"]
    waiting = {job.id for job in server.jobs if not is_complete(job)}
    given_back = set(give_back(pulled, server.labels))
    pulled = [job for job in pulled if job.job_id not in given_back]
    deleted = deleted_frames(gateway, pushed, parallel)
    names = {name for task in pushed.tasks for name in task.frames}
    names |= {entry.at.file_name for entry in manifest.cases}
    sizes = frame_sizes(names, Catalogue(folder.home))
    compiled = compile_round(
        manifest,
        pushed,
        proposals,
        pulled,
        sizes,
        box_masks=tuple(answers(folder)),
        deleted=deleted,
    )
    if not allow_incomplete:
        _check_whole(folder, len(server.jobs), sorted(waiting), sorted(given_back), compiled)
    counted = [job for job in complete if job.id not in given_back]
    replicas = [job for job in read if job.kind == "consensus_replica"]
    effort = read_effort(folder, pushed, [*counted, *again], gateway)
    effort = with_outcomes(effort, folder, pushed, compiled.corrections, pulled, replicas)
    _seal(folder, compiled.annotations, compiled.corrections, effort)
    told = (*server.told, *deleted.values(), *compiled.converted)
    left_out = tuple(sorted(waiting | given_back))
    return PullResult(compiled.corrections, effort, left_out, compiled.refused, told)


def _read_jobs(
    folder: RoundFolder,
    gateway: Gateway,
    jobs: Sequence[RemoteJob],
    labels: Sequence[RemoteLabel],
    parallel: int,
    progress: Progress,
) -> list[PulledJob]:
    pulled: list[PulledJob] = []
    with ThreadPoolExecutor(max_workers=parallel) as pool:
        reads = [pool.submit(_read_job, folder, gateway, job, labels) for job in jobs]
        try:
            for read in reads:
                pulled.append(read.result())
                progress(f"job {pulled[-1].job_id}", len(pulled) / len(jobs))
        finally:
            for read in reads:
                read.cancel()
    return pulled


def _check_whole(
    folder: RoundFolder,
    n_jobs: int,
    waiting: Sequence[int],
    given_back: Sequence[int],
    compiled: Compiled,
) -> None:
    problems = list(compiled.refused)
    if given_back:
        also = f" {len(waiting)} other jobs are not completed." if waiting else ""
        raise StateError(
            f"round {folder.number:02d}: rectangles in jobs {', '.join(map(str, given_back))} "
            "became masks of the promoted model. Their annotators must look at them and complete "
            f"the jobs again; then pull again.{also}"
        )
    if waiting:
        shown = ", ".join(map(str, waiting[:_SHOWN])) + (", …" if len(waiting) > _SHOWN else "")
        also = f" Also {_unusable(problems)}. Correct them in CVAT." if problems else ""
        raise StateError(
            f"round {folder.number:02d}: {len(waiting)} of {n_jobs} jobs are not completed "
            f"(ids {shown}). Finish them in CVAT or pass --allow-incomplete.{also}"
        )
    if problems:
        raise DataError(
            f"round {folder.number:02d}: {_unusable(problems)}. Correct them in CVAT or pass "
            "--allow-incomplete to leave them out"
        )


def _unusable(problems: Sequence[str]) -> str:
    """Annotations that cannot be used, the first of them by name."""
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return f"{len(problems)} annotations cannot be used: {'; '.join(problems[:_SHOWN])}{more}"


def _seal(
    folder: RoundFolder, annotations: AnnotationSet, corrections: Corrections, effort: Effort
) -> None:
    """Write the three documents; the annotations last, for they are the round's state."""
    sealed = folder.file("annotations.coco.json")
    if sealed.exists():  # forced; what it held may have been added to since, and is kept
        sealed.replace(folder.file(EARLIER))
    write_document(folder.file("effort.json"), effort)
    write_document(folder.file("corrections.json"), corrections)
    write_annotations(folder.file("annotations.coco.json"), annotations)
    kept = sum(image.status in {"ok", "corrected"} for image in annotations.images)
    folder.home.audit("pull", f"round {folder.number:02d}", f"{kept} frames reviewed")
