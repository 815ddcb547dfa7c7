"""Proposals: what the promoted model answers on the frames of a round, before an expert looks.

Boxes come from the lesion's concept when the model is sure enough, else from the reader's own
rectangle; where there is neither, concepts are asked for label by label. The source of each
prompt is kept. Knows no annotation tool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import AnnotationSetBuilder, Origin, write_annotations
from casebook.cases import Case
from casebook.errors import PromptError, StateError
from casebook.labels import LabelSet
from casebook.protocols import Embedding, Frame, Prediction, Prompt, Segmenter, answers_to
from segmenter.doubt import NO_ANSWER, doubt
from trainer.rounds_config import ProposeConfig
from trainer.select import Uncertainty
from trainer.teachers import load_incumbent
from trainer.work import Work

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Proposal:
    """One mask with its label and what it was asked by."""

    label: str
    bitmap: Bool[np.ndarray, "h w"]
    score: float
    prompt_source: str
    """`concept`: found by the model; `case`: the reader's rectangle."""
    uncertainty: float


def propose(work: Work) -> str:
    """Write the round's proposals, once."""
    folder = work.folder
    if folder.has("proposals.coco.json"):
        return "proposals.coco.json is there"
    if folder.number == 1:
        raise StateError(
            "round 01 has no proposals: its cases came annotated. Run `make train ROUND=1`, then "
            "`cvatsync push --round 2`"
        )
    manifest = folder.manifest()
    teacher = load_incumbent(work)
    builder = AnnotationSetBuilder(
        manifest.labels, {"round": str(folder.number), "model_id": teacher.model_id}
    )
    found = 0
    for done, line in enumerate(manifest.cases):
        case = work.catalogue.get(line.at.case_id)
        frame = work.catalogue.frame(line.at)
        image_id = builder.add_image(line.at, frame.hw)
        for one in proposals(
            teacher,
            frame,
            case,
            manifest.labels,
            work.config.propose,
            lesion_in_text=work.config.lesion_in_text,
        ):
            builder.add_mask(
                image_id,
                one.label,
                masks.encode(one.bitmap),
                Origin.MODEL,
                model_id=teacher.model_id,
                score=one.score,
                prompt_source=one.prompt_source,
            )
            found += 1
        work.progress(
            "propose", f"{done + 1} of {len(manifest.cases)}", (done + 1) / len(manifest.cases)
        )
    write_annotations(folder.file("proposals.coco.json"), builder.build())
    return f"{found} masks on {len(manifest.cases)} frames by {teacher.model_id}"


def proposals(
    teacher: Segmenter,
    frame: Frame,
    case: Case,
    labels: LabelSet,
    config: ProposeConfig,
    *,
    lesion_in_text: bool = False,
) -> list[Proposal]:
    """The masks proposed for one frame; none where the model finds nothing.

    Args:
        lesion_in_text: Ask for the lesion of the analysed segment by both names first.
    """
    embedding = teacher.embed(frame)
    box, source = lesion_box(
        teacher, embedding, case, labels, config.threshold, lesion_in_text=lesion_in_text
    )
    if box is not None:
        label = case.segment or _lesion_name(labels)
        if label is not None:
            answers = _masks(_ask(teacher, embedding, Prompt(box_xyxy=box, view=frame.view)))
            return [_proposal(labels.find(label).name, one, source) for one in answers[:1]]
    return _by_concept(teacher, embedding, case, labels, config)


def lesion_box(
    teacher: Segmenter,
    embedding: Embedding,
    case: Case,
    labels: LabelSet,
    threshold: float,
    *,
    lesion_in_text: bool = False,
) -> tuple[Box | None, str]:
    """The box to ask with, and whether it came from the concept or from the case.

    Args:
        lesion_in_text: Ask for the lesion of the analysed segment by both names first.
    """
    lesions = labels.of_role("lesion")
    names = [lesion.name for lesion in lesions]
    if lesion_in_text and case.segment is not None:
        names = [labels.lesion_of(case.segment, lesion) for lesion in lesions] + names
    for name in names:
        answers = _masks(_ask(teacher, embedding, _concept(name, embedding.frame)))
        if answers and answers[0].score >= threshold:
            x1, y1, x2, y2 = masks.box_of(answers[0].bitmap)
            return (float(x1), float(y1), float(x2), float(y2)), "concept"
    return case.lesion_box_xyxy, "case"


def _by_concept(
    teacher: Segmenter, embedding: Embedding, case: Case, labels: LabelSet, config: ProposeConfig
) -> list[Proposal]:
    wanted = labels.find(case.segment).name if case.segment else None
    # Experts draw the segments; the tree is their union.
    left_out = {label.name for label in labels.of_role("tree")} if labels.of_role("segment") else ()
    names = [
        label.name
        for label in labels.masks
        if wanted in (None, label.name) and label.name not in left_out
    ]
    prompts = [_concept(name, embedding.frame) for name in names]
    found = []
    for name, answers in zip(names, answers_to(teacher, embedding, prompts), strict=True):
        sure = [one for one in _masks(answers or ()) if one.score >= config.threshold]
        found += [_proposal(name, one, "concept") for one in sure[: config.max_per_label]]
    return found


def uncertainty(work: Work) -> Uncertainty:
    """How unsure the promoted model is of a case: of its least sure mask, 1 when it finds none.

    With `select.ask_again` the case's box is asked again, a little elsewhere and in darker and
    lighter pictures, and the disagreement counts too.
    """
    teacher = load_incumbent(work)
    labels, config = work.config.label_set(), work.config.propose
    both = work.config.lesion_in_text

    def of(case: Case) -> float:
        frame = work.catalogue.frame(case.ref)
        if work.config.select.ask_again:
            box, _ = lesion_box(
                teacher, teacher.embed(frame), case, labels, config.threshold, lesion_in_text=both
            )
            if box is not None:
                return _asked_again(teacher, frame, Prompt(box_xyxy=box, view=frame.view))
        found = proposals(teacher, frame, case, labels, config, lesion_in_text=both)
        return max((one.uncertainty for one in found), default=1.0)

    return of


def _asked_again(teacher: Segmenter, frame: Frame, prompt: Prompt) -> float:
    try:
        return doubt(teacher, frame, prompt).total
    except PromptError:  # a reader's rectangle that misses the image: nothing is known of it
        return NO_ANSWER.total


def _concept(name: str, frame: Frame) -> Prompt:
    return Prompt(concept=name, view=frame.view)


def _ask(teacher: Segmenter, embedding: Embedding, prompt: Prompt) -> Sequence[Prediction]:
    try:
        return teacher.predict(embedding, prompt.checked(embedding.frame.hw))
    except PromptError:  # a reader's rectangle that misses the image: nothing to propose
        return ()


def _masks(answers: Sequence[Prediction]) -> list[Prediction]:
    """Answers that are not empty, best first."""
    found = [one for one in answers if one.bitmap.any()]
    return sorted(found, key=lambda one: -one.score)


def _proposal(label: str, answer: Prediction, source: str) -> Proposal:
    score = min(max(answer.score, 0.0), 1.0)
    return Proposal(label, answer.bitmap, score, source, answer.uncertainty)


def _lesion_name(labels: LabelSet) -> str | None:
    lesions = labels.of_role("lesion")
    return lesions[0].name if lesions else None
