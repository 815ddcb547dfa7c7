"""A round in figures: what report.json holds and the page shows. Knows no drawing."""

from datetime import UTC, datetime
from typing import Literal, get_args

from pydantic import Field

from angio.evaluation import CaseEvaluation
from casebook.corrections import Corrections, Effort
from casebook.documents import Document, read_document
from casebook.rounds import Manifest, RoundFolder
from trainer.arms import ArmComparison, compare_arms
from trainer.breakdown import (
    ClicksNeeded,
    Group,
    Measured,
    Names,
    by_case,
    by_degree,
    by_segment,
    clicks,
    measured,
    names,
)
from trainer.results import Candidate, Decision
from trainer.scores import Figure, Mean, RoundEvaluation, SplitScores, mean_of

FIGURES: tuple[Figure, ...] = get_args(Figure)


class CorrectionCounts(Document):
    """What became of the round's proposals."""

    accepted: int
    refined: int
    added: int
    deleted: int
    rejected_frames: int


class EffortSummary(Document):
    """Time spent on the round's annotations."""

    cases: int
    seconds: float
    seconds_per_case: float
    hours_saved: float
    """Against 5 minutes a case by hand."""
    source: str
    is_simulated: bool


class RoundReport(Document):
    """One round, whole."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int
    created: datetime
    cases_new: int
    cases_total: int
    rejected: int
    masks_by_origin: dict[str, int]
    candidate: str
    incumbent: str
    init_from: str
    promoted: bool
    reasons: tuple[str, ...]
    gain_val: Mean
    """Candidate minus incumbent, IoU with box, frozen validation cases."""
    gain_test: Mean
    """The same on the frozen test cases; reported, never deciding."""
    test: dict[str, Mean]
    """The candidate's figures on the frozen test cases, by name."""
    test_incumbent: dict[str, Mean]
    val: dict[str, Mean]
    vessels: tuple[Group, ...] = ()
    labels: tuple[Group, ...] = ()
    cases: tuple[CaseEvaluation, ...] = ()
    """The candidate's test cases, best first."""
    corrections: CorrectionCounts | None = None
    effort: EffortSummary | None = None
    train_steps: int
    train_seconds: float
    learning_rate: float
    base: str
    arms: dict[str, int] = Field(default_factory=dict)
    """Training cases by selection arm."""
    arm_comparison: ArmComparison | None = None
    segments: tuple[Group, ...] = ()
    """Every segment drawn on the test cases, by its label."""
    views: tuple[Group, ...] = ()
    phases: tuple[Group, ...] = ()
    degrees: tuple[Group, ...] = ()
    """By the worst narrowing in the experts' masks."""
    qca: Measured = Measured()
    clicks: tuple[ClicksNeeded, ...] = ()
    names: Names | None = None
    """What the candidate calls the segments …"""
    names_incumbent: Names | None = None
    """… and the incumbent."""


def figures_of(scores: SplitScores) -> dict[str, Mean]:
    """Every figure the cases have."""
    return {name: mean_of(found) for name in FIGURES if (found := scores.values(name))}


def summarise(
    folder: RoundFolder, candidate: Candidate, evaluation: RoundEvaluation, decision: Decision
) -> RoundReport:
    """A round's files as one report."""
    ours, theirs = evaluation.candidate, evaluation.incumbent
    manifest = folder.manifest()
    rate = candidate.config.get("train")
    lr = rate.get("lr") if isinstance(rate, dict) else None
    arms = [case.arm for case in manifest.cases]
    return RoundReport(
        round=folder.number,
        created=datetime.now(UTC),
        cases_new=len(manifest.cases),
        cases_total=candidate.images + candidate.rejected,
        rejected=candidate.rejected,
        masks_by_origin=candidate.masks_by_origin,
        candidate=decision.candidate,
        incumbent=decision.incumbent,
        init_from=candidate.init_from,
        promoted=decision.promote,
        reasons=decision.reasons,
        gain_val=Mean(
            mean=decision.mean_gain,
            low=decision.gain_low,
            high=decision.gain_high,
            n=decision.cases,
        ),
        gain_test=mean_of(gains(ours.test, theirs.test)),
        test=figures_of(ours.test),
        test_incumbent=figures_of(theirs.test),
        val=figures_of(ours.val),
        vessels=by_case(ours.test, theirs.test, lambda case: case.vessel),
        labels=by_case(ours.test, theirs.test, lambda case: case.label),
        segments=by_segment(ours.test, theirs.test),
        views=by_case(ours.test, theirs.test, lambda case: case.view),
        phases=by_case(ours.test, theirs.test, lambda case: case.phase),
        degrees=by_degree(ours.test, theirs.test),
        qca=measured(ours.test),
        clicks=clicks(ours.test, theirs.test),
        names=names(ours.test),
        names_incumbent=names(theirs.test),
        cases=tuple(sorted(ours.test.cases, key=lambda case: (-case.iou_box, case.case_id))),
        corrections=_corrections(folder),
        effort=_effort(folder),
        train_steps=candidate.steps,
        train_seconds=candidate.seconds,
        learning_rate=float(lr) if isinstance(lr, int | float) else 0.0,
        base=candidate.base,
        arms={arm: arms.count(arm) for arm in sorted(set(arms))},
        arm_comparison=_arm_comparison(folder, manifest),
    )


def gains(ours: SplitScores, theirs: SplitScores) -> list[float]:
    """IoU differences of the cases both models were scored on."""
    other = theirs.iou_by_case()
    return [case.iou_box - other[case.case_id] for case in ours.cases if case.case_id in other]


def _arm_comparison(folder: RoundFolder, manifest: Manifest) -> ArmComparison | None:
    if not folder.has("corrections.json"):
        return None
    return compare_arms(manifest, read_document(folder.file("corrections.json"), Corrections))


def _corrections(folder: RoundFolder) -> CorrectionCounts | None:
    if not folder.has("corrections.json"):
        return None
    found = read_document(folder.file("corrections.json"), Corrections)
    return CorrectionCounts(
        accepted=found.count("accepted"),
        refined=found.count("refined"),
        added=found.count("added"),
        deleted=found.count("deleted"),
        rejected_frames=len(found.rejected),
    )


def _effort(folder: RoundFolder) -> EffortSummary | None:
    if not folder.has("effort.json"):
        return None
    found = read_document(folder.file("effort.json"), Effort)
    return EffortSummary(
        cases=found.cases,
        seconds=found.seconds,
        seconds_per_case=found.seconds / found.cases if found.cases else 0.0,
        hours_saved=found.hours_saved,
        source=found.source,
        is_simulated=found.is_simulated,
    )
