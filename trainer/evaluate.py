"""The evaluation step: candidate and incumbent on the frozen validation and test cases.

Scores are kept by model and cases, so that an incumbent is scored once however many rounds it
stays. Knows no decision.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from angio.evaluation import evaluate as evaluate_cases
from casebook.annotations import AnnotationSet
from casebook.catalogue import Catalogue
from casebook.documents import read_document, sha256_of, write_document
from casebook.errors import StateError
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from trainer.results import Candidate
from trainer.scores import ModelScores, RoundEvaluation, SplitScores
from trainer.teachers import load_teacher_of
from trainer.work import Work

Tell = Callable[[str, float], None]


def evaluate(work: Work) -> str:
    """Write the round's evaluation, once."""
    folder = work.folder
    how = f"Run `make train ROUND={folder.number}`."
    candidate = read_document(folder.need("candidate.json", how), Candidate)
    if folder.has("evaluation.json"):
        found = read_evaluation(folder)
        if found.candidate.model_id == candidate.model_id:
            return f"evaluation.json is there: {_said(found)}"
        raise StateError(
            f"round {folder.number:02d}: evaluation.json is of {found.candidate.model_id}, the "
            f"candidate is {candidate.model_id}. Run `trainer train --round {folder.number} "
            "--force`"
        )
    scores = []
    for index, model_id in enumerate((candidate.model_id, candidate.incumbent)):

        def tell(message: str, fraction: float, start: int = index) -> None:
            work.progress("evaluate", message, min((start + fraction) / 2, 0.99))

        scores.append(scores_of(work, model_id, tell, details=True))
    found = RoundEvaluation(
        round=folder.number,
        manifest_sha256=folder.manifest_sha256(),
        candidate=scores[0],
        incumbent=scores[1],
    )
    write_document(folder.file("evaluation.json"), found)
    return _said(found)


def read_evaluation(folder: RoundFolder) -> RoundEvaluation:
    """The round's evaluation.

    Raises:
        StateError: there is none yet.
    """
    how = f"Run `make train ROUND={folder.number}`."
    return read_document(folder.need("evaluation.json", how), RoundEvaluation)


def scores_of(work: Work, model_id: str, tell: Tell, *, details: bool = False) -> ModelScores:
    """A model's scores on the frozen cases, from the cache when they are there.

    Args:
        details: Also measurements and simulated clicks on the test cases, where the round's
            configuration wants them; scores kept without them stay as they are.
    """
    manifest = work.folder.manifest()
    cases = _identity(manifest, work.catalogue)
    path = cache_path(work, model_id, cases)
    if path.exists():
        return read_document(path, ModelScores)
    started = time.monotonic()
    teacher = load_teacher_of(work, model_id)
    val = [work.catalogue.get(line.at.case_id) for line in manifest.val]
    test = [work.catalogue.get(line.at.case_id) for line in manifest.test]
    total = len(val) + len(test)
    ridges = _ridge_filter(path, cases)

    def tell_val(done: int, _: int) -> None:
        tell(f"{model_id}: {done} of {total} cases", done / total)

    def tell_test(done: int, _: int) -> None:
        tell_val(len(val) + done, total)

    # The gate looks at the box IoU alone, so validation cases need nothing else.
    decides = evaluate_cases(
        teacher,
        work.catalogue,
        val,
        manifest.labels,
        concepts=False,
        baseline=False,
        progress=tell_val,
    )
    reported = evaluate_cases(
        teacher,
        work.catalogue,
        test,
        manifest.labels,
        baseline=not ridges,
        details=details and work.config.evaluate.details,
        names=work.config.evaluate.names,
        progress=tell_test,
    )
    rows = [case.with_(**ridges.get(case.case_id, {})) for case in reported.cases]
    scores = ModelScores(
        model_id=model_id,
        cases_sha256=cases,
        val=SplitScores(cases=decides.cases),
        test=SplitScores(cases=tuple(rows)),
        seconds=time.monotonic() - started,
    )
    write_document(path, scores)
    return scores


def cache_path(work: Work, model_id: str, cases_sha256: str) -> Path:
    """Where a model's scores on some cases lie."""
    return work.folder.home.root / "evaluations" / f"{model_id}-{cases_sha256[:12]}.json"


def _ridge_filter(path: Path, cases_sha256: str) -> dict[str, dict[str, float | None]]:
    """The Frangi filter's figures by case, from any model's scores on the same cases."""
    for other in sorted(path.parent.glob(f"*-{cases_sha256[:12]}.json")):
        return {
            case.case_id: {
                "frangi_dice": case.frangi_dice,
                "tree_frangi_dice": case.tree_frangi_dice,
            }
            for case in read_document(other, ModelScores).test.cases
        }
    return {}


def _identity(manifest: Manifest, catalogue: Catalogue) -> str:
    """Digest of the frozen cases and their truth."""
    lines = [
        [line.at.file_name, line.image_sha256, _truth(catalogue, line).model_dump_json()]
        for line in (*manifest.val, *manifest.test)
    ]
    return sha256_of(json.dumps(lines).encode())


def _truth(catalogue: Catalogue, line: ManifestCase) -> AnnotationSet:
    given = catalogue.expert_annotations(line.at.case_id)
    if given is None:
        raise StateError(f"case {line.at.case_id} lost its expert annotations; import it again")
    return given


def _said(found: RoundEvaluation) -> str:
    ours, theirs = found.candidate.test.mean("iou_box"), found.incumbent.test.mean("iou_box")
    return f"IoU with box on test {ours or 0:.3f}, incumbent {theirs or 0:.3f}"
