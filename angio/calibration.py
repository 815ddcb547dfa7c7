"""How often a segmenter's score keeps its word, on validation cases that experts annotated.

Knows no model beyond the Segmenter protocol, and not how answers are served.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool

from angio.evaluation import Truth, box_prompt, truth_of
from casebook.calibration import MIN_MASKS, RIGHT_IOU, Calibration, Curve, fit
from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.metrics import iou
from casebook.protocols import Embedding, Prediction, Prompt, Segmenter

Progress = Callable[[int, int], None]


@dataclass
class _Masks:
    """Masks of known truth, gathered case by case."""

    scores: list[float] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)

    def add(self, case_id: str, found: Prediction, truth: Bool[np.ndarray, "h w"]) -> None:
        self.scores.append(found.score)
        self.is_right.append(iou(found.bitmap, truth) >= RIGHT_IOU)
        self.cases.append(case_id)

    def curve(self) -> Curve | None:
        enough = len(self.scores) >= MIN_MASKS
        return fit(self.scores, self.is_right, self.cases) if enough else None


def calibrate(
    segmenter: Segmenter,
    catalogue: Catalogue,
    labels: LabelSet,
    *,
    progress: Progress | None = None,
) -> Calibration:
    """The curves of a model, from every validation case with an expert's segment.

    A box is prompted by the expert's mask; a concept is asked for only where the expert drew it,
    so its curve says nothing of vessels found where there are none.

    Raises:
        DataError: too few masks for either curve.
    """
    boxes, concepts = _Masks(), _Masks()
    cases = list(catalogue.cases(split=Split.VAL, annotated=True))
    used = 0
    for number, case in enumerate(cases, start=1):
        truth = _truth(catalogue, case, labels)
        if truth is not None:
            used += 1
            embedding = segmenter.embed(catalogue.frame(case.ref))
            _ask(segmenter, embedding, case.case_id, truth, labels, boxes, concepts)
        if progress is not None:
            progress(number, len(cases))
    box, concept = boxes.curve(), concepts.curve()
    if box is None and concept is None:
        raise DataError(
            f"{len(boxes.scores)} masks with a known truth on {used} validation cases; expected "
            f"{MIN_MASKS} or more to calibrate. Annotate more validation cases"
        )
    return Calibration(model_id=segmenter.model_id, cases=used, box=box, concept=concept)


def _ask(
    segmenter: Segmenter,
    embedding: Embedding,
    case_id: str,
    truth: Truth,
    labels: LabelSet,
    boxes: _Masks,
    concepts: _Masks,
) -> None:
    view = embedding.frame.view
    drawn = list(truth.segments)
    for _, bitmap in truth.segments:
        for found in segmenter.predict(embedding, box_prompt(bitmap)):
            boxes.add(case_id, found, bitmap)
    if truth.tree is not None and truth.tree_is_expert:
        drawn += [(label.name, truth.tree) for label in labels.of_role("tree")]
    for name, bitmap in drawn:
        for found in segmenter.predict(embedding, Prompt(concept=name, view=view)):
            concepts.add(case_id, found, bitmap)


def _truth(catalogue: Catalogue, case: Case, labels: LabelSet) -> Truth | None:
    """What experts drew; nothing where no segment of it is theirs."""
    annotations = catalogue.expert_annotations(case.case_id)
    if annotations is None:
        return None
    try:
        return truth_of(annotations, labels)
    except DataError:
        return None
