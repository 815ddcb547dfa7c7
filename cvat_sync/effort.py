"""Time the experts spent on a round, where that number comes from, and what they did in it."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.corrections import Corrections, Effort, JobEffort, Share
from casebook.errors import AccessError, RemoteError
from casebook.rounds import RoundFolder
from cvat_sync.agreement import agreement
from cvat_sync.pulled import PulledJob
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway, RemoteJob, WorkingTime

_DRAWS = 2000
_NOBODY = "nobody assigned"
_UNNAMED = "not named"


def effort_from_dates(
    number: int, jobs: Sequence[RemoteJob], cases: Mapping[int, int] | None = None
) -> Effort:
    """Time as the span between a job's first and last change: an upper bound, pauses included.

    `cases` are the cases of a job by its id, where they are not all its frames.
    """
    spans = {job.id: (job.updated - job.created).total_seconds() for job in jobs}
    effort = Effort(round=number, jobs=_jobs(jobs, spans, cases or {}), source="job dates")
    return _with_interval(effort, jobs)


def effort_from_events(
    number: int,
    jobs: Sequence[RemoteJob],
    times: Sequence[WorkingTime],
    cases: Mapping[int, int] | None = None,
) -> Effort:
    """Time as CVAT's analytics saw it; jobs without an event count as no time.

    `cases` are the cases of a job by its id, where they are not all its frames.
    """
    spent = {time.job_id: time for time in times}
    ours = [spent[job.id] for job in jobs if job.id in spent]
    effort = Effort(
        round=number,
        jobs=_jobs(jobs, {time.job_id: time.seconds for time in ours}, cases or {}),
        source="working time events",
        is_simulated=any(time.is_simulated for time in ours),
    )
    return _with_interval(effort, jobs)


def _jobs(
    jobs: Sequence[RemoteJob], seconds: Mapping[int, float], cases: Mapping[int, int]
) -> tuple[JobEffort, ...]:
    return tuple(
        JobEffort(
            job_id=job.id,
            annotator=job.annotator,
            cases=cases.get(job.id, job.stop_frame - job.start_frame + 1),
            seconds=max(0.0, seconds.get(job.id, 0.0)),
        )
        for job in jobs
    )


def _cases(pushed: Pushed, jobs: Sequence[RemoteJob]) -> dict[int, int]:
    """Cases a job brings, by its id: a replica none, a honeypot none but for its expert."""
    tasks = {task.task_id: task for task in pushed.tasks}
    found: dict[int, int] = {}
    for job in jobs:
        task = tasks[job.task_id]
        if job.kind == "annotation":
            times = Counter(task.frames)
            names = task.frames[job.start_frame : job.stop_frame + 1]
            found[job.id] = len({case_of(name) for name in names if times[name] == 1})
        elif job.kind == "consensus_replica":
            found[job.id] = 0
    return found


def case_of(file_name: str) -> str:
    """The case a frame belongs to; a name that is not one of ours stands for itself."""
    at = FrameRef.from_file_name(file_name)
    return file_name if at is None else at.case_id


def _with_interval(effort: Effort, jobs: Sequence[RemoteJob]) -> Effort:
    """The effort with a 95 % interval of the hours saved: jobs drawn again, with replacement.

    A job and its replicas are drawn together.
    """
    saved_s: dict[int, float] = {}
    for job, spent in zip(jobs, effort.jobs, strict=True):
        group = job.id if job.parent_id is None else job.parent_id
        gain = spent.cases * effort.baseline_s_per_case - spent.seconds
        saved_s[group] = saved_s.get(group, 0.0) + gain
    if len(saved_s) < 2:
        return effort
    values = np.array(list(saved_s.values()))
    draws = np.random.default_rng(effort.round).integers(len(values), size=(_DRAWS, len(values)))
    low, high = np.percentile(values[draws].sum(axis=1) / 3600, [2.5, 97.5])
    return effort.with_(hours_saved_ci95=(float(low), float(high)))


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
        return effort_from_events(folder.number, jobs, times, _cases(pushed, jobs))
    return effort_from_dates(folder.number, jobs, _cases(pushed, jobs))


class _Tally:
    """Work added up under names."""

    def __init__(self) -> None:
        self._shares: dict[str, dict[str, float]] = {}

    def add(self, name: str, what: str, amount: float = 1.0) -> None:
        """Add some work."""
        share = self._shares.setdefault(name, {})
        share[what] = share.get(what, 0) + amount

    def shares(self) -> tuple[Share, ...]:
        """All of it, by name."""
        return tuple(
            Share.model_validate(
                {
                    "name": name,
                    "cases": 0,
                    **{
                        what: amount if what == "seconds" else int(amount)
                        for what, amount in {"seconds": 0.0, **share}.items()
                    },
                }
            )
            for name, share in sorted(self._shares.items())
        )


def with_outcomes(
    effort: Effort,
    folder: RoundFolder,
    pushed: Pushed,
    corrections: Corrections,
    jobs: Sequence[PulledJob],
    replicas: Sequence[PulledJob],
) -> Effort:
    """The effort with what each annotator did, what each vessel took, and how far people agree."""
    catalogue = Catalogue(folder.home)
    frames = {task.task_id: task.frames for task in pushed.tasks}
    spent = {job.job_id: job.seconds for job in effort.jobs}
    annotators, vessels = _Tally(), _Tally()
    vessel_of: dict[str, str] = {}
    annotator_of: dict[str, str] = {}
    for entry in folder.manifest().cases:
        case = catalogue.get(entry.at.case_id)
        vessel_of[case.case_id] = case.vessel or case.segment or _UNNAMED
    for job in [*replicas, *sorted(jobs, key=lambda one: one.kind == "ground_truth")]:
        cases = {case_of(frames[job.task_id][position]) for position in job.positions}
        who, seconds = job.annotator or _NOBODY, spent.get(job.job_id, 0.0)
        annotators.add(who, "cases", float(len(cases)))
        annotators.add(who, "seconds", seconds)
        for case_id in cases:
            vessels.add(vessel_of.get(case_id, _UNNAMED), "seconds", seconds / len(cases))
            if job.kind != "consensus_replica":
                annotator_of[case_id] = who
    for case_id in annotator_of:
        vessels.add(vessel_of.get(case_id, _UNNAMED), "cases")
    outcomes = [(change.at.case_id, str(change.outcome)) for change in corrections.changes]
    outcomes += [(at.case_id, "rejected") for at in corrections.rejected]
    for case_id, outcome in outcomes:
        annotators.add(annotator_of.get(case_id, _NOBODY), outcome)
        vessels.add(vessel_of.get(case_id, _UNNAMED), outcome)
    return effort.with_(
        annotators=annotators.shares(),
        vessels=vessels.shares(),
        agreement=agreement(folder, pushed, replicas),
    )


def lines(effort: Effort) -> tuple[str, ...]:
    """The effort in words."""
    per_case = effort.seconds / effort.cases if effort.cases else 0.0
    marked = " (simulated)" if effort.is_simulated else ""
    interval = ""
    if effort.hours_saved_ci95 is not None:
        low, high = effort.hours_saved_ci95
        interval = f" (95 % interval {low:.2f} to {high:.2f})"
    found = [
        f"round {effort.round:02d}: {effort.cases} cases in {effort.seconds:.0f} s{marked}, "
        f"{per_case:.1f} s a case; source: {effort.source}",
        f"  {effort.hours_saved:.2f} hours saved{interval} against "
        f"{effort.baseline_s_per_case:.0f} s a case by hand",
    ]
    if effort.source == "job dates":
        found.append("  job dates count pauses as work: read the time as an upper bound")
    found += _table("annotator", effort.annotators)
    found += _table("vessel", effort.vessels)
    found += [
        f"  agreement on {one.label}: Dice {one.dice_mean:.2f}, lowest {one.dice_min:.2f}, "
        f"{one.pairs} pairs"
        for one in effort.agreement
    ]
    return tuple(found)


def _table(what: str, shares: Sequence[Share]) -> list[str]:
    if not shares:
        return []
    head = f"  {what:<18} cases  s/case  accepted  refined  added  deleted  rejected  kept"
    rows = []
    for one in shares:
        kept = "" if one.acceptance is None else f"{one.acceptance:.0%}"
        per_case = one.seconds / one.cases if one.cases else 0.0
        rows.append(
            f"  {one.name:<18} {one.cases:5d} {per_case:7.1f} {one.accepted:9d} "
            f"{one.refined:8d} {one.added:6d} {one.deleted:8d} {one.rejected:9d} {kept:>5}"
        )
    return [head, *rows]
