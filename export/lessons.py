"""What the student minimises: masks by prompt with corrections in the loop, and automatic maps.

The target is an expert's mask, the teacher's answer, or both by their weights. Works on squares;
knows nothing of images, cases or files.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Int
from skimage.morphology import skeletonize
from torch import Tensor

from export.hints import Projection, hint_loss
from export.student import Features, Student
from segmenter.interactive import PromptMix, correction_clicks, draw_prompts
from segmenter.losses import dice_loss, iou, mask_loss


@dataclass(frozen=True)
class PromptLesson:
    """Squares and the masks asked for in them."""

    squares: Float[Tensor, "i 1 s s"]
    """Grey values 0–255."""
    owner: Int[Tensor, " b"]
    """The square each mask belongs to."""
    truth: Bool[Tensor, "b s s"]
    """What prompts and corrections are drawn from: the expert's mask, else the teacher's."""
    expert_weight: Float[Tensor, " b"]
    """How much `truth` itself counts; 0 where no expert drew it."""
    taught: Float[Tensor, "b s s"]
    """The teacher's probability of each pixel."""
    teacher_weight: Float[Tensor, " b"]
    """How much it counts; 0 without a teacher."""
    hints: Float[Tensor, "i c g g"] | None = None
    """The teacher's embedding of each square, where it shall be learnt from …"""
    hinted: Float[Tensor, "i g g"] | None = None
    """… and the share of each cell that it saw."""


@dataclass(frozen=True)
class WholeLesson:
    """Whole pictures and the maps the automatic head should find."""

    squares: Float[Tensor, "i 1 s s"]
    truth: Bool[Tensor, "i k s s"]
    expert_weight: Float[Tensor, "i k"]
    """0 where that map is not known."""
    taught: Float[Tensor, "i k s s"]
    teacher_weight: Float[Tensor, "i k"]


@dataclass(frozen=True)
class Lesson:
    """One training step: either part may be absent."""

    prompts: PromptLesson | None = None
    whole: WholeLesson | None = None


def _rows(features: Features, index: Int[Tensor, " b"]) -> Features:
    f2, f4, f8, f16 = (level[index] for level in features)
    return f2, f4, f8, f16


def soft_loss(
    logits: Float[Tensor, "b s s"], wanted: Float[Tensor, "b s s"]
) -> Float[Tensor, " b"]:
    """Cross-entropy and Dice against probabilities, per mask."""
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=(1, 2))
    return entropy + dice_loss(logits, wanted)


def line_loss(logits: Float[Tensor, "b s s"], truth: Bool[Tensor, "b s s"]) -> Float[Tensor, " b"]:
    """The share of the true centrelines, at most three px wide, that is missed, per mask.

    It holds thin branches together as soft clDice does, at a hundredth of its cost: only the truth
    has a skeleton, and that needs no gradient.
    Source: Kirchhoff et al., ECCV 2024, arXiv:2404.03010, eq. 2 and 3.
    """
    thin = np.stack([skeletonize(one) for one in truth.cpu().numpy()])
    lines = torch.from_numpy(thin).to(logits)
    lines = F.max_pool2d(lines[:, None], 3, stride=1, padding=1)[:, 0] * truth
    found = (logits.sigmoid() * lines).sum(dim=(1, 2))
    return 1 - (found + 1) / (lines.sum(dim=(1, 2)) + 1)


def prompt_loss(
    student: Student,
    lesson: PromptLesson,
    mix: PromptMix,
    generator: torch.Generator,
    features: Features | None = None,
) -> dict[str, Tensor]:
    """The loss of one batch of prompts with its corrections, and how well the masks overlap.

    The features are of the lesson's squares, when they are there already.
    """
    features = student.encoder(lesson.squares) if features is None else features
    rows = _rows(features, lesson.owner)
    points, labels = draw_prompts(lesson.truth, mix, generator)
    corrections = 0
    if mix.corrections and float(torch.rand(1, generator=generator)) < mix.correction_share:
        corrections = mix.corrections
    solid = lesson.truth.float()
    previous = torch.zeros_like(solid)[:, None]
    total, overlap = torch.zeros(()), torch.zeros(())
    weight = (lesson.expert_weight + lesson.teacher_weight).sum().clamp(min=1e-6)
    for turn in range(corrections + 1):
        logits, quality = student.decoder(rows, points, labels, previous)
        logits, quality = logits.float(), quality.float()
        found = iou(logits > 0, lesson.truth).detach()
        per_mask = lesson.expert_weight * mask_loss(logits, solid)
        if bool(lesson.teacher_weight.any()):
            per_mask = per_mask + lesson.teacher_weight * soft_loss(logits, lesson.taught)
        share = lesson.expert_weight + lesson.teacher_weight
        per_mask = per_mask + share * (quality - found) ** 2
        total = total + per_mask.sum() / weight / (corrections + 1)
        if turn == 0:
            overlap = found.mean()
        if turn < corrections:
            more, kinds = correction_clicks(logits.detach(), lesson.truth)
            points, labels = torch.cat([points, more], dim=1), torch.cat([labels, kinds], dim=1)
            previous = logits.detach()[:, None]
    return {"loss": total, "iou": overlap}


def whole_loss(
    student: Student,
    lesson: WholeLesson,
    features: Features | None = None,
    *,
    centreline: float = 0.0,
) -> dict[str, Tensor]:
    """The loss of the automatic maps of whole pictures, and the Dice of the known ones.

    The first map may also be held to its centreline (see `line_loss`), by this weight.
    """
    features = student.encoder(lesson.squares) if features is None else features
    logits = student.automatic(features).float().flatten(0, 1)
    truth = lesson.truth.flatten(0, 1)
    expert, teacher = lesson.expert_weight.flatten(), lesson.teacher_weight.flatten()
    per_map = expert * mask_loss(logits, truth.float())
    if centreline:
        first = torch.arange(len(logits)) % lesson.truth.shape[1] == 0
        first = first & (expert > 0)
        if bool(first.any()):
            lines = line_loss(logits[first], truth[first])
            per_map = per_map.index_add(0, first.nonzero()[:, 0], centreline * lines)
    if bool(teacher.any()):
        per_map = per_map + teacher * soft_loss(logits, lesson.taught.flatten(0, 1))
    weight = (expert + teacher).sum().clamp(min=1e-6)
    found = logits.detach() > 0
    both = 2 * (found & truth).sum(dim=(1, 2)).float()
    either = found.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))
    dice = torch.where(either > 0, both / either.clamp(min=1), torch.ones_like(both))
    known = (expert + teacher > 0) & truth.flatten(1).any(dim=1)
    mean = (dice * known).sum() / known.sum().clamp(min=1)
    return {"loss": per_map.sum() / weight, "dice": mean}


def lesson_loss(
    student: Student,
    lesson: Lesson,
    mix: PromptMix,
    generator: torch.Generator,
    *,
    centreline: float = 0.0,
    projection: Projection | None = None,
    likeness: float = 0.0,
) -> dict[str, Tensor]:
    """The loss of a step; squares are encoded once.

    Args:
        student: taught.
        lesson: of the step.
        mix: of prompts.
        generator: of all randomness.
        centreline: weight of the tree's missed centrelines, see `whole_loss`.
        projection: of the student's maps, where the lesson has hints.
        likeness: weight of the hints.
    """
    terms: dict[str, Tensor] = {}
    total = torch.zeros(())
    features: Features | None = None
    shared = (
        lesson.prompts is not None
        and lesson.whole is not None
        and lesson.prompts.squares is lesson.whole.squares
    )
    hinted = projection is not None and lesson.prompts is not None
    if (shared or hinted) and lesson.prompts is not None:
        features = student.encoder(lesson.prompts.squares)
    if lesson.prompts is not None:
        part = prompt_loss(student, lesson.prompts, mix, generator, features)
        total = total + part["loss"]
        terms["iou"] = part["iou"]
        asked = lesson.prompts
        if projection is not None and features and asked.hints is not None:
            share = torch.ones_like(asked.hints[:, 0]) if asked.hinted is None else asked.hinted
            terms["unlike"] = hint_loss(projection(features), asked.hints, share)
            total = total + likeness * terms["unlike"]
    if lesson.whole is not None:
        seen = features if shared else None
        part = whole_loss(student, lesson.whole, seen, centreline=centreline)
        total = total + part["loss"]
        terms["dice_auto"] = part["dice"]
    return {"loss": total, **terms}
