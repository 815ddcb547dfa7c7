"""The promotion gate: candidate against incumbent on the frozen validation cases.

Pure: scores in, decision out. Knows neither model nor disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from casebook.errors import DataError
from casebook.metrics import Interval, bootstrap_mean
from trainer.results import Decision, VesselGain
from trainer.rounds_config import GateConfig


@dataclass(frozen=True)
class Scored:
    """One model's IoU by case."""

    model_id: str
    iou: Mapping[str, float]


def compare(
    candidate: Scored,
    incumbent: Scored,
    vessels: Mapping[str, str | None],
    config: GateConfig,
) -> Decision:
    """Promote when the mean gain is positive, its lower bound high enough and no vessel worse.

    `vessels` holds the vessel of each case, where it is known.

    Raises:
        DataError: there are no cases, or the two models were scored on different ones.
    """
    cases = sorted(candidate.iou)
    if not cases or set(cases) != set(incumbent.iou):
        raise DataError(
            f"{candidate.model_id} has {len(candidate.iou)} scored validation cases, "
            f"{incumbent.model_id} {len(incumbent.iou)}; both need the same cases, at least one"
        )
    gains = {case: candidate.iou[case] - incumbent.iou[case] for case in cases}
    overall = _interval([gains[case] for case in cases], config)
    by_vessel = _by_vessel(gains, vessels, config)
    refusals = []
    if overall.mean <= 0:
        refusals.append(f"mean gain {overall.mean:+.3f} is not positive")
    if overall.low <= config.lower_bound:
        refusals.append(
            f"lower bound {overall.low:+.3f} is not above {config.lower_bound:+.3f} "
            f"({config.level:.0%} of {config.resamples} paired resamples)"
        )
    refusals += [
        f"vessel {entry.vessel} is significantly worse: {entry.mean:+.3f} "
        f"[{entry.low:+.3f}, {entry.high:+.3f}] on {entry.cases} cases"
        for entry in by_vessel
        if entry.is_worse
    ]
    agreed = (
        f"mean gain {overall.mean:+.3f} [{overall.low:+.3f}, {overall.high:+.3f}] on "
        f"{overall.n} validation cases" + ("; no vessel significantly worse" if by_vessel else ""),
    )
    return Decision(
        candidate=candidate.model_id,
        incumbent=incumbent.model_id,
        promote=not refusals,
        reasons=tuple(refusals) or agreed,
        cases=overall.n,
        mean_gain=overall.mean,
        gain_low=overall.low,
        gain_high=overall.high,
        vessels=by_vessel,
    )


def _interval(gains: list[float], config: GateConfig) -> Interval:
    return bootstrap_mean(gains, seed=config.seed, level=config.level, resamples=config.resamples)


def _by_vessel(
    gains: Mapping[str, float], vessels: Mapping[str, str | None], config: GateConfig
) -> tuple[VesselGain, ...]:
    groups: dict[str, list[float]] = {}
    for case, gain in gains.items():
        name = vessels.get(case)
        if name:
            groups.setdefault(name, []).append(gain)
    entries = []
    for name, values in sorted(groups.items()):
        if len(values) < config.min_cases_per_vessel:
            continue
        found = _interval(values, config)
        entries.append(
            VesselGain(
                vessel=name,
                cases=found.n,
                mean=found.mean,
                low=found.low,
                high=found.high,
                is_worse=found.high < 0,
            )
        )
    return tuple(entries)
