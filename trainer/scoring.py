"""One frozen case scored: the expert's masks against the model's, with and without their boxes."""

import numpy as np
from jaxtyping import Bool

from casebook import masks, metrics
from casebook.annotations import AnnotationSet
from casebook.cases import Case
from casebook.catalogue import Catalogue
from casebook.errors import StateError
from casebook.labels import LabelSet
from casebook.protocols import Embedding, Prompt, Segmenter
from casebook.rounds import ManifestCase
from trainer.scores import CaseScore


def score_case(
    model: Segmenter, catalogue: Catalogue, line: ManifestCase, labels: LabelSet
) -> CaseScore:
    """The scores of a model on one case.

    Raises:
        StateError: the case has no expert mask to score against.
    """
    case = catalogue.get(line.at.case_id)
    truth = expert_masks(catalogue.expert_annotations(case.case_id), case, labels)
    if not truth:
        raise StateError(
            f"case {case.case_id} has no expert mask of a segment; import it again or remove it"
        )
    frame = catalogue.frame(line.at)
    embedding = model.embed(frame)
    pairs = [(_in_box(model, embedding, bitmap), bitmap) for bitmap in truth.values()]
    return CaseScore(
        case_id=case.case_id,
        vessel=case.vessel,
        label=case.segment if case.segment in truth else None,
        iou_box=_mean([metrics.iou(answer, bitmap) for answer, bitmap in pairs]),
        dice=_mean([metrics.dice(answer, bitmap) for answer, bitmap in pairs]),
        cldice=_mean([metrics.cldice(answer, bitmap) for answer, bitmap in pairs]),
        iou_auto=_automatic(model, embedding, case, truth, labels),
    )


def expert_masks(
    given: AnnotationSet | None, case: Case, labels: LabelSet
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """The expert's masks of a case by label: segments and objects, not the whole tree."""
    found: dict[str, Bool[np.ndarray, "h w"]] = {}
    if given is None:
        return found
    shown = {image.id for image in given.images if image.ref == case.ref}
    for entry in given.annotations:
        label = labels.find(given.label_of(entry))
        if entry.image_id in shown and label.role in {"segment", "object"}:
            bitmap = masks.decode(entry.mask)
            found[label.name] = found[label.name] | bitmap if label.name in found else bitmap
    return found


def _in_box(
    model: Segmenter, embedding: Embedding, bitmap: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    x1, y1, x2, y2 = masks.box_of(bitmap)
    return _asked(model, embedding, (float(x1), float(y1), float(x2), float(y2)))


def _asked(
    model: Segmenter, embedding: Embedding, box: tuple[float, float, float, float]
) -> Bool[np.ndarray, "h w"]:
    prompt = Prompt(box_xyxy=box, view=embedding.frame.view)
    answers = model.predict(embedding, prompt)
    return answers[0].bitmap if answers else np.zeros(embedding.frame.hw, dtype=bool)


def _automatic(
    model: Segmenter,
    embedding: Embedding,
    case: Case,
    truth: dict[str, Bool[np.ndarray, "h w"]],
    labels: LabelSet,
) -> float | None:
    """IoU without a prompt from the truth; nothing when no concept stands for it."""
    lesions, trees = labels.of_role("lesion"), labels.of_role("tree")
    if lesions and case.segment in truth:
        found = _best(model, embedding, lesions[0].name)
        if found is None:
            return 0.0
        return metrics.iou(_in_box(model, embedding, found), truth[case.segment])
    if not trees:
        return None
    found = _best(model, embedding, trees[0].name)
    union = np.logical_or.reduce(list(truth.values()))
    return 0.0 if found is None else metrics.iou(found, union)


def _best(model: Segmenter, embedding: Embedding, concept: str) -> Bool[np.ndarray, "h w"] | None:
    """The surest mask of a concept that is not empty."""
    answers = model.predict(embedding, Prompt(concept=concept, view=embedding.frame.view))
    found = [answer for answer in answers if answer.bitmap.any()]
    return max(found, key=lambda answer: answer.score).bitmap if found else None


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
