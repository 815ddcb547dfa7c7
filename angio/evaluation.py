"""How well any segmenter does on annotated cases, case by case, with a ridge filter beside it.

*The plan's IoU*: each segment mask an expert drew, prompted by its own box, averaged over the case.
The automatic IoU takes no prompt from the truth. Knows no model beyond the Segmenter protocol.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from angio import frangi, qca
from angio.clicks import click_curve
from angio.naming import Naming, ask_names, by_heads, by_names, coded
from casebook.annotations import AnnotationSet, Origin
from casebook.cases import Case
from casebook.catalogue import Catalogue
from casebook.documents import Document
from casebook.errors import DataError, PromptError, QcaError
from casebook.labels import LabelSet
from casebook.masks import box_of, decode
from casebook.metrics import cldice, dice, iou
from casebook.protocols import Embedding, Frame, Prediction, Prompt, Segmenter, predict_all

Bitmap = Bool[np.ndarray, "h w"]
Progress = Callable[[int, int], None]

CONCEPT_SCORE_MIN = 0.5
"""Answers of a concept below this score are left out of the whole tree."""
_BY_EXPERTS = frozenset({Origin.HUMAN, Origin.HUMAN_BOX, Origin.MODEL_REVIEWED})


class Measures(Document):
    """What QCA finds in one mask."""

    stenosis_pct: float = Field(ge=0, le=100)
    mld_px: float = Field(ge=0)
    """Minimal lumen diameter."""
    mld_mm: float | None = Field(default=None, ge=0)
    """Where the case has a spacing."""


class SegmentScore(Document):
    """One segment an expert drew, prompted by its own box; shares from 0 to 1."""

    label: str
    iou_box: float = Field(ge=0, le=1)
    dice: float = Field(ge=0, le=1)
    cldice: float = Field(ge=0, le=1)
    frangi_dice: float | None = Field(default=None, ge=0, le=1)
    """A Frangi filter inside the same box."""
    by_expert: Measures | None = None
    """QCA of the expert's mask; none where it was refused or not asked for."""
    by_model: Measures | None = None
    """QCA of the model's mask, where the expert's could be measured."""
    clicks: tuple[float, ...] = ()
    """IoU after each simulated click; empty when not asked for."""
    named: Naming | None = None
    """What the model calls it; none where it cannot say or was not asked."""


class CaseEvaluation(Document):
    """One case: means over its segments, and what was found without a prompt."""

    case_id: str
    vessel: str | None = None
    label: str | None = None
    """The analysed segment, when there is one."""
    segments: tuple[SegmentScore, ...]
    iou_box: float = Field(ge=0, le=1)
    dice: float = Field(ge=0, le=1)
    cldice: float = Field(ge=0, le=1)
    frangi_dice: float | None = Field(default=None, ge=0, le=1)
    iou_auto: float | None = Field(default=None, ge=0, le=1)
    """No prompt taken from the truth: the lesion's concept gives the box; or the whole tree."""
    tree_dice: float | None = Field(default=None, ge=0, le=1)
    """The tree's concept against the tree, where there is one to compare with."""
    tree_cldice: float | None = Field(default=None, ge=0, le=1)
    tree_frangi_dice: float | None = Field(default=None, ge=0, le=1)
    view: str | None = None
    """For instance `RAO caudal`."""
    phase: str | None = None
    stenosis_pct: float | None = Field(default=None, ge=0, le=100)
    """The worst narrowing in the experts' masks, where any could be measured."""


class Evaluation(Document):
    """A model on a set of cases."""

    model_id: str
    cases: tuple[CaseEvaluation, ...]

    def mean(self, figure: str) -> float | None:
        """Mean of a figure over the cases that have it, by its field's name.

        Raises:
            DataError: there is no such figure.
        """
        if figure not in CaseEvaluation.model_fields:
            raise DataError(f"figure {figure!r}; expected a field of CaseEvaluation")
        values = [getattr(case, figure) for case in self.cases]
        found = [float(value) for value in values if value is not None]
        return sum(found) / len(found) if found else None

    def by_label(self) -> dict[str, float]:
        """Mean box IoU of every label's segments."""
        scores: dict[str, list[float]] = {}
        for case in self.cases:
            for segment in case.segments:
                scores.setdefault(segment.label, []).append(segment.iou_box)
        return {label: sum(values) / len(values) for label, values in sorted(scores.items())}

    def by_vessel(self) -> dict[str, float]:
        """Mean box IoU of the cases of every vessel."""
        scores: dict[str, list[float]] = {}
        for case in self.cases:
            scores.setdefault(case.vessel or "unnamed", []).append(case.iou_box)
        return {vessel: sum(values) / len(values) for vessel, values in sorted(scores.items())}


@dataclass(frozen=True)
class Truth:
    """What experts drew on one frame."""

    segments: tuple[tuple[str, Bitmap], ...]
    tree: Bitmap | None
    tree_is_expert: bool
    """Whether the tree is an expert's, not another program's."""


def truth_of(annotations: AnnotationSet, labels: LabelSet) -> Truth:
    """Segments and tree of a case's annotations.

    Raises:
        DataError: no expert drew a segment.
    """
    segment_names = {label.name for label in labels.of_role("segment")}
    object_names = {label.name for label in labels.of_role("object")}
    tree_names = {label.name for label in labels.of_role("tree")}
    segments, tree, tree_is_expert = [], None, False
    for entry in annotations.annotations:
        name = annotations.label_of(entry)
        if name in segment_names | object_names and entry.origin in _BY_EXPERTS:
            segments.append((name, decode(entry.mask)))
        elif name in tree_names:
            tree, tree_is_expert = decode(entry.mask), entry.origin in _BY_EXPERTS
    if not segments:
        raise DataError("no expert drew a segment here; evaluate annotated cases only")
    return Truth(tuple(segments), tree, tree_is_expert)


def box_prompt(bitmap: Bitmap) -> Prompt:
    """The smallest box around a mask, as a prompt."""
    x1, y1, x2, y2 = box_of(bitmap)
    return Prompt(box_xyxy=(float(x1), float(y1), float(x2), float(y2)))


def _answers(
    segmenter: Segmenter, embedding: Embedding, prompts: Sequence[Prompt]
) -> list[Prediction]:
    """The best answer to each prompt; an empty mask when the model finds none."""
    nothing = Prediction(np.zeros(embedding.frame.hw, dtype=bool), 0.0)
    answers = predict_all(segmenter, embedding, prompts)
    return [found[0] if found else nothing for found in answers]


def automatic_segment(segmenter: Segmenter, embedding: Embedding, labels: LabelSet) -> Bitmap:
    """The lesion segment with no prompt from a person: the lesion's concept gives the box.

    Empty when the model finds no lesion, or there is no label for one.
    """
    nothing = np.zeros(embedding.frame.hw, dtype=bool)
    for label in labels.of_role("lesion"):
        found = segmenter.predict(embedding, Prompt(concept=label.name))
        if found and found[0].bitmap.any():
            return _answers(segmenter, embedding, [box_prompt(found[0].bitmap)])[0].bitmap
    return nothing


def automatic_tree(segmenter: Segmenter, embedding: Embedding, labels: LabelSet) -> Bitmap:
    """Everything the model finds for the tree's concept with enough confidence."""
    total = np.zeros(embedding.frame.hw, dtype=bool)
    for label in labels.of_role("tree"):
        for found in segmenter.predict(embedding, Prompt(concept=label.name)):
            if found.score >= CONCEPT_SCORE_MIN:
                total |= found.bitmap
    return total


def evaluate_case(
    segmenter: Segmenter,
    catalogue: Catalogue,
    case: Case,
    labels: LabelSet,
    *,
    concepts: bool = True,
    baseline: bool = True,
    details: bool = False,
    names: bool = True,
) -> CaseEvaluation:
    """One annotated case.

    Args:
        segmenter: The model.
        catalogue: Where the case lies.
        case: With expert annotations.
        labels: Which label is a segment, the lesion, the tree.
        concepts: Also what the model finds on its own.
        baseline: Also what a Frangi filter finds in the same boxes, of vessels alone.
        details: Also measurements of both masks, and simulated clicks.
        names: With details, the segments' names too where the model's heads do not say them.

    Raises:
        DataError: no expert drew a segment on it.
    """
    annotations = catalogue.expert_annotations(case.case_id)
    if annotations is None:
        raise DataError(f"case {case.case_id} has no expert annotations; leave it out")
    truth = truth_of(annotations, labels)
    frame = catalogue.frame(case.ref)
    embedding = segmenter.embed(frame)
    vessels = {label.name for label in labels.of_role("segment")}
    filtered = baseline and bool(vessels or labels.of_role("tree"))
    response = frangi.vesselness(frame.pixels) if filtered else None
    prompts = [box_prompt(bitmap) for _, bitmap in truth.segments]
    answers = _answers(segmenter, embedding, prompts)
    called = _names(segmenter, embedding, labels, truth, answers, ask=details and names)
    scores = []
    for (label, bitmap), prompt, found, named in zip(
        truth.segments, prompts, answers, called, strict=True
    ):
        answer = found.bitmap
        ridge = None
        if response is not None and prompt.box_xyxy is not None and label in vessels:
            ridge = dice(frangi.in_box(response, prompt.box_xyxy), bitmap)
        expert = model = None
        if details and label in vessels:
            expert = _measures(frame, case, bitmap, by_model=False)
            model = _measures(frame, case, answer, by_model=True) if expert is not None else None
        scores.append(
            SegmentScore(
                label=label,
                iou_box=iou(answer, bitmap),
                dice=dice(answer, bitmap),
                cldice=cldice(answer, bitmap),
                frangi_dice=ridge,
                by_expert=expert,
                by_model=model,
                clicks=click_curve(segmenter, embedding, bitmap) if details else (),
                named=named,
            )
        )
    ridges = [score.frangi_dice for score in scores if score.frangi_dice is not None]
    degrees = [score.by_expert.stenosis_pct for score in scores if score.by_expert is not None]
    figures: dict[str, float] = {}
    if truth.tree is not None and response is not None:
        figures["tree_frangi_dice"] = dice(frangi.tree(response), truth.tree)
    if concepts:
        figures |= _automatic(segmenter, embedding, labels, truth)
    return CaseEvaluation(
        case_id=case.case_id,
        vessel=case.vessel,
        label=case.segment,
        segments=tuple(scores),
        iou_box=_mean([score.iou_box for score in scores]),
        dice=_mean([score.dice for score in scores]),
        cldice=_mean([score.cldice for score in scores]),
        frangi_dice=_mean(ridges) if ridges else None,
        view=_view_name(case),
        phase=case.phase,
        stenosis_pct=max(degrees) if degrees else None,
        **figures,
    )


def _names(
    segmenter: Segmenter,
    embedding: Embedding,
    labels: LabelSet,
    truth: Truth,
    answers: Sequence[Prediction],
    *,
    ask: bool,
) -> list[Naming | None]:
    """What the model calls each segment: by its heads, else by the names it is asked for."""
    codes = set(coded(labels).values())
    found = [
        by_heads(answer, labels) if label in codes else None
        for (label, _), answer in zip(truth.segments, answers, strict=True)
    ]
    wanted = [
        index
        for index, (label, _) in enumerate(truth.segments)
        if label in codes and found[index] is None
    ]
    asked = ask_names(segmenter, embedding, labels) if ask and wanted else None
    if asked is not None:
        for index in wanted:
            found[index] = by_names(asked, truth.segments[index][1])
    return found


def _measures(frame: Frame, case: Case, bitmap: Bitmap, *, by_model: bool) -> Measures | None:
    """QCA of a mask; none where it is refused."""
    try:
        lesion = qca.measure(frame.pixels, bitmap, case.spacing, by_model=by_model)
    except QcaError:
        return None
    return Measures(stenosis_pct=lesion.stenosis_pct, mld_px=lesion.mld_px, mld_mm=lesion.mld_mm)


def _view_name(case: Case) -> str | None:
    """The quadrant of the gantry: `LAO cranial`."""
    if case.view is None:
        return None
    side = "LAO" if case.view.primary_deg >= 0 else "RAO"
    return f"{side} {'cranial' if case.view.secondary_deg >= 0 else 'caudal'}"


def _automatic(
    segmenter: Segmenter, embedding: Embedding, labels: LabelSet, truth: Truth
) -> dict[str, float]:
    """Figures of what the model finds on its own.

    Where experts drew the whole tree (ARCADE) the automatic IoU is the tree's; else the lesion
    segment's.
    """
    figures: dict[str, float] = {}
    tree = None
    if truth.tree is not None:
        tree = automatic_tree(segmenter, embedding, labels)
        figures["tree_dice"] = dice(tree, truth.tree)
        figures["tree_cldice"] = cldice(tree, truth.tree)
    if truth.tree is not None and tree is not None and truth.tree_is_expert:
        figures["iou_auto"] = iou(tree, truth.tree)
    elif labels.of_role("lesion"):
        try:
            found = automatic_segment(segmenter, embedding, labels)
        except PromptError:
            found = np.zeros(embedding.frame.hw, dtype=bool)
        figures["iou_auto"] = max(iou(found, bitmap) for _, bitmap in truth.segments)
    return figures


def _mean(values: Sequence[float]) -> float:
    return min(max(sum(values) / len(values), 0.0), 1.0)


def evaluate(
    segmenter: Segmenter,
    catalogue: Catalogue,
    cases: Sequence[Case],
    labels: LabelSet,
    *,
    concepts: bool = True,
    baseline: bool = True,
    details: bool = False,
    names: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """A model on annotated cases.

    Args:
        segmenter: The model.
        catalogue: Where the cases lie.
        cases: With expert annotations.
        labels: Which label is a segment, the lesion, the tree.
        concepts: Also what the model finds on its own.
        baseline: Also what a Frangi filter finds in the same boxes.
        details: Also measurements of both masks, and simulated clicks.
        names: With details, the segments' names too where the model's heads do not say them.
        progress: Told how many cases of how many are done.

    Raises:
        DataError: a case has no expert annotations.
    """
    done = []
    for number, case in enumerate(cases, start=1):
        done.append(
            evaluate_case(
                segmenter,
                catalogue,
                case,
                labels,
                concepts=concepts,
                baseline=baseline,
                details=details,
                names=names,
            )
        )
        if progress is not None:
            progress(number, len(cases))
    return Evaluation(model_id=segmenter.model_id, cases=tuple(done))
