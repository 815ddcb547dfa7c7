"""Which segment a model says that a mask is: by its heads, or by the names it is asked for.

Knows no model beyond the Segmenter protocol.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool

from casebook.documents import Document
from casebook.labels import LabelSet
from casebook.metrics import iou
from casebook.protocols import Embedding, Prediction, Prompt, Segmenter, answers_to

Bitmap = Bool[np.ndarray, "h w"]

NAMED_SCORE_MIN = 0.5
"""Answers to a name below this score are left out …"""
NAMED_IOU_MIN = 0.5
"""… and so are those that overlap the mask less than this. Source: the overlap from which a
detection counts as the object, Everingham et al., IJCV 88 (2010) 303–338, section 4.2."""


class Naming(Document):
    """What a model says a mask is."""

    by: Literal["heads", "names"]
    label: str | None = None
    """None: it calls it nothing."""


@dataclass(frozen=True)
class Named:
    """What a model finds on a frame for the name of one segment."""

    label: str
    bitmap: Bitmap
    score: float


def coded(labels: LabelSet) -> dict[int, str]:
    """Names of the segments that have a code, by it; nothing where there is no choice."""
    found = {label.code: label.name for label in labels.of_role("segment") if label.code}
    return found if len(found) > 1 else {}


def by_heads(answer: Prediction, labels: LabelSet) -> Naming | None:
    """The segment whose code the heads give with the mask; none where there are no heads."""
    code = answer.heads.get("code")
    return None if code is None else Naming(by="heads", label=coded(labels).get(round(code)))


def ask_names(
    segmenter: Segmenter, embedding: Embedding, labels: LabelSet
) -> tuple[Named, ...] | None:
    """What the model finds for every segment's name; none where it takes no names at all."""
    names = tuple(coded(labels).values())
    prompts = [Prompt(concept=name, view=embedding.frame.view) for name in names]
    answers = answers_to(segmenter, embedding, prompts)
    if all(found is None for found in answers):
        return None
    return tuple(
        Named(name, one.bitmap, one.score)
        for name, found in zip(names, answers, strict=True)
        for one in found or ()
    )


def by_names(asked: Sequence[Named], bitmap: Bitmap) -> Naming:
    """The name whose answer overlaps a mask well and is the surest."""
    fitting = [
        one
        for one in asked
        if one.score >= NAMED_SCORE_MIN and iou(one.bitmap, bitmap) >= NAMED_IOU_MIN
    ]
    best = max(fitting, key=lambda one: one.score, default=None)
    return Naming(by="names", label=best.label if best else None)
