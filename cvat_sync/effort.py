"""Time the experts spent on a round, and where that number comes from."""

from collections.abc import Sequence

from casebook.corrections import Effort, JobEffort
from casebook.errors import AccessError, RemoteError
from casebook.rounds import RoundFolder
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway, RemoteJob, WorkingTime


def effort_from_dates(number: int, jobs: Sequence[RemoteJob]) -> Effort:
    """Time as the span between a job's first and last change: an upper bound, pauses included."""
    return Effort(
        round=number,
        jobs=tuple(_effort(job, (job.updated - job.created).total_seconds()) for job in jobs),
        source="job dates",
    )


def effort_from_events(
    number: int, jobs: Sequence[RemoteJob], times: Sequence[WorkingTime]
) -> Effort:
    """Time as CVAT's analytics saw it; jobs without an event count as no time."""
    spent = {time.job_id: time for time in times}
    ours = [spent[job.id] for job in jobs if job.id in spent]
    seconds = {time.job_id: time.seconds for time in ours}
    return Effort(
        round=number,
        jobs=tuple(_effort(job, seconds.get(job.id, 0.0)) for job in jobs),
        source="working time events",
        is_simulated=any(time.is_simulated for time in ours),
    )


def _effort(job: RemoteJob, seconds: float) -> JobEffort:
    return JobEffort(
        job_id=job.id,
        annotator=job.annotator,
        cases=job.stop_frame - job.start_frame + 1,
        seconds=max(0.0, seconds),
    )


def read_effort(
    folder: RoundFolder, pushed: Pushed, jobs: Sequence[RemoteJob], gateway: Gateway
) -> Effort:
    """Time spent on completed jobs: from analytics where CVAT has them, else from job dates."""
    try:
        times = gateway.working_times(pushed.project_id)
    except AccessError:
        raise
    except RemoteError:  # no ClickHouse behind this server
        times = ()
    known = {time.job_id for time in times}
    if any(job.id in known for job in jobs):
        return effort_from_events(folder.number, jobs, times)
    return effort_from_dates(folder.number, jobs)


def lines(effort: Effort) -> tuple[str, ...]:
    """The effort in words."""
    per_case = effort.seconds / effort.cases if effort.cases else 0.0
    marked = " (simulated)" if effort.is_simulated else ""
    return (
        f"round {effort.round:02d}: {effort.cases} cases in {effort.seconds:.0f} s{marked}, "
        f"{per_case:.1f} s a case; source: {effort.source}",
        f"  {effort.hours_saved:.2f} hours saved against "
        f"{effort.baseline_s_per_case:.0f} s a case by hand",
    )
