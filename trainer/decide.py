"""The decision about a candidate, and its carrying out."""

from datetime import UTC, datetime

from casebook.documents import read_document, write_document
from casebook.rounds import RoundFolder
from trainer.calibration import calibrated
from trainer.evaluate import read_evaluation
from trainer.gate import Scored, compare
from trainer.results import Decision, Promotion
from trainer.scores import RoundEvaluation
from trainer.teachers import load_teacher_of
from trainer.work import Work


def decide(work: Work) -> str:
    """Write the round's decision, once."""
    folder = work.folder
    if folder.has("decision.json"):
        return _said(read_decision(folder))
    evaluation = read_evaluation(folder)
    decision = judge(evaluation, work)
    write_document(folder.file("decision.json"), decision)
    return _said(decision)


def judge(evaluation: RoundEvaluation, work: Work) -> Decision:
    """The gate's decision on the frozen validation cases; the test cases are not looked at."""
    candidate, incumbent = evaluation.candidate.val, evaluation.incumbent.val
    decision = compare(
        Scored(evaluation.candidate.model_id, candidate.iou_by_case()),
        Scored(evaluation.incumbent.model_id, incumbent.iou_by_case()),
        {row.case_id: row.vessel for row in candidate.cases},
        work.config.gate,
    )
    return decision.with_(manifest_sha256=work.folder.manifest_sha256())


def read_decision(folder: RoundFolder) -> Decision:
    """The round's decision.

    Raises:
        StateError: there is none yet.
    """
    how = f"Run `make train ROUND={folder.number}`."
    return read_document(folder.need("decision.json", how), Decision)


def promote(work: Work) -> str:
    """Carry out the decision, once: a later rollback by hand is not undone."""
    folder = work.folder
    decision = read_decision(folder)
    if not folder.has("promotion.json"):
        if decision.promote and work.registry.promoted() != decision.candidate:
            name = decision.candidate
            # Before the pointer moves: the functions load the model with its calibration.
            said = calibrated(
                work, name, lambda: load_teacher_of(work, name), folder.manifest().labels
            )
            work.progress("promote", f"{name}: {said}")
            work.registry.promote(
                decision.candidate, f"round {folder.number:02d}: {decision.reasons[0]}"
            )
        write_document(
            folder.file("promotion.json"),
            Promotion(
                candidate=decision.candidate, promoted=decision.promote, at=datetime.now(UTC)
            ),
        )
    kept = work.registry.promoted() or "the bare base"
    return f"{decision.candidate} is promoted" if decision.promote else f"{kept} stays in use"


def _said(decision: Decision) -> str:
    verdict = "promote" if decision.promote else "keep"
    chosen = decision.candidate if decision.promote else decision.incumbent
    return f"{verdict} {chosen}: {'; '.join(decision.reasons)}"
