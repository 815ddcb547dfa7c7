"""The frozen test cases by vessel, segment, view, phase and degree; measurements; clicks.

Knows no model and no drawing.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pydantic import Field
from scipy.stats import binomtest

from angio.agreement import PAIRS_MIN, Agreement, agreement
from angio.clicks import MAX_CLICKS, clicks_needed
from angio.evaluation import CaseEvaluation, Measures, SegmentScore
from casebook.documents import Document
from trainer.scores import Mean, SplitScores, mean_of

WANTED_IOU = (0.8, 0.9)
DEGREES = ((50.0, "below 50 %"), (70.0, "50 to 69 %"), (100.1, "70 % and more"))
"""Upper bounds of diameter stenosis; 50 and 70 % part mild, moderate and severe.

Source: Cury et al., CAD-RADS 2.0, JCCT 16 (2022) 536–557, table 1.
"""

WAYS = {"heads": "its heads", "names": "asking for each name"}
"""How a model says what a segment is, in words."""


class Group(Document):
    """Some of the test cases, or segments on them."""

    name: str
    candidate: Mean
    incumbent: Mean


class ClicksNeeded(Document):
    """Simulated clicks until the answer is good enough, on every segment of the test cases."""

    iou: float
    """What is good enough."""
    limit: int
    """Where it is not reached, so many are counted."""
    candidate: Mean
    candidate_reached: float = Field(ge=0, le=1)
    """Share of the segments on which it is reached."""
    incumbent: Mean | None = None
    incumbent_reached: float | None = Field(default=None, ge=0, le=1)


class Measured(Document):
    """QCA of the candidate's masks against QCA of the experts'."""

    tables: tuple[Agreement, ...] = ()
    segments: int = Field(default=0, ge=0)
    """On which the experts' masks can be measured …"""
    refused: int = Field(default=0, ge=0)
    """… and those of them on which the candidate's cannot."""


class Confusion(Document):
    """How often experts' segments of one label were called something."""

    label: str
    said: str | None
    """None: nothing."""
    count: int


class Names(Document):
    """What a model calls the segments of the test cases, against what experts call them."""

    by: Literal["heads", "names"]
    """From its heads, or by asking for each name."""
    right: Mean
    """Share called by their own name, with its Wilson interval."""
    silent: int
    """Segments called nothing; they count as wrong."""
    commonest: float = Field(ge=0, le=1)
    """Share that always saying the commonest label would get right."""
    confusions: tuple[Confusion, ...]


def by_case(
    ours: SplitScores, theirs: SplitScores, name_of: Callable[[CaseEvaluation], str | None]
) -> tuple[Group, ...]:
    """IoU with box of the cases both models were scored on, by a name each case has or has not."""
    other = theirs.iou_by_case()
    groups: dict[str, list[CaseEvaluation]] = {}
    for case in ours.cases:
        name = name_of(case)
        if name and case.case_id in other:
            groups.setdefault(name, []).append(case)
    return tuple(
        Group(
            name=name,
            candidate=mean_of([case.iou_box for case in cases]),
            incumbent=mean_of([other[case.case_id] for case in cases]),
        )
        for name, cases in sorted(groups.items())
    )


def by_degree(ours: SplitScores, theirs: SplitScores) -> tuple[Group, ...]:
    """The same by the worst narrowing in the experts' masks, mildest first."""
    found = {group.name: group for group in by_case(ours, theirs, _degree)}
    return tuple(found[name] for _, name in DEGREES if name in found)


def by_segment(ours: SplitScores, theirs: SplitScores) -> tuple[Group, ...]:
    """IoU with box of every segment drawn, by its label."""
    pools = [_segment_ious(scores) for scores in (ours, theirs)]
    return tuple(
        Group(name=name, candidate=mean_of(values), incumbent=mean_of(pools[1][name]))
        for name, values in sorted(pools[0].items())
        if name in pools[1]
    )


def measured(scores: SplitScores) -> Measured:
    """Bland–Altman tables of the segments that both masks of can be measured."""
    pairs = measure_pairs(scores)
    wanted = [one for one in _segments(scores) if one.by_expert is not None]
    tables = [
        agreement(name, unit, [pair[0] for pair in values], [pair[1] for pair in values])
        for (name, unit), values in pairs.items()
        if len(values) >= PAIRS_MIN
    ]
    return Measured(
        tables=tuple(tables),
        segments=len(wanted),
        refused=sum(one.by_model is None for one in wanted),
    )


def measure_pairs(scores: SplitScores) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """The model's and the expert's value of each measurement, by its name and unit."""
    kinds: Mapping[tuple[str, str], Callable[[Measures], float | None]] = {
        ("diameter stenosis", "points"): lambda found: found.stenosis_pct,
        ("minimal lumen diameter", "px"): lambda found: found.mld_px,
        ("minimal lumen diameter", "mm"): lambda found: found.mld_mm,
    }
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for one in _segments(scores):
        if one.by_expert is None or one.by_model is None:
            continue
        for kind, value in kinds.items():
            ours, theirs = value(one.by_model), value(one.by_expert)
            if ours is not None and theirs is not None:
                pairs[kind].append((ours, theirs))
    return pairs


def names(scores: SplitScores) -> Names | None:
    """How often segments are called by their own name; nothing where none was called."""
    known = [(one.label, one.named) for one in _segments(scores) if one.named is not None]
    if not known:
        return None
    pairs = Counter((label, said.label) for label, said in known)
    labels = Counter(label for label, _ in known)
    hits = sum(count for (label, said), count in pairs.items() if label == said)
    interval = binomtest(hits, len(known)).proportion_ci(method="wilson")
    return Names(
        by=known[0][1].by,
        right=Mean(mean=hits / len(known), low=interval.low, high=interval.high, n=len(known)),
        silent=sum(count for (_, said), count in pairs.items() if said is None),
        commonest=labels.most_common(1)[0][1] / len(known),
        confusions=tuple(
            Confusion(label=label, said=said, count=count)
            for (label, said), count in sorted(
                pairs.items(), key=lambda pair: (pair[0][0], pair[0][1] or "")
            )
        ),
    )


def clicks(ours: SplitScores, theirs: SplitScores) -> tuple[ClicksNeeded, ...]:
    """Clicks to each wanted IoU; nothing when none were simulated."""
    curves = [[one.clicks for one in _segments(scores) if one.clicks] for scores in (ours, theirs)]
    if not curves[0]:
        return ()
    found = []
    for wanted in WANTED_IOU:
        (candidate, reached), *incumbent = (_needed(some, wanted) for some in curves if some)
        found.append(
            ClicksNeeded(
                iou=wanted,
                limit=MAX_CLICKS,
                candidate=candidate,
                candidate_reached=reached,
                incumbent=incumbent[0][0] if incumbent else None,
                incumbent_reached=incumbent[0][1] if incumbent else None,
            )
        )
    return tuple(found)


def _needed(curves: Sequence[Sequence[float]], wanted: float) -> tuple[Mean, float]:
    needed = [clicks_needed(curve, wanted) for curve in curves]
    reached = sum(count is not None for count in needed) / len(needed)
    return mean_of([float(MAX_CLICKS if count is None else count) for count in needed]), reached


def _segments(scores: SplitScores) -> list[SegmentScore]:
    return [segment for case in scores.cases for segment in case.segments]


def _segment_ious(scores: SplitScores) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for segment in _segments(scores):
        found.setdefault(segment.label, []).append(segment.iou_box)
    return found


def _degree(case: CaseEvaluation) -> str | None:
    degree = case.stenosis_pct
    if degree is None:
        return None
    return next(name for bound, name in DEGREES if degree < bound)
