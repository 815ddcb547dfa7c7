"""Mask losses: what is minimised between logits and truth; all differentiable, all per batch.

Knows nothing of models or prompts.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Int
from torch import Tensor

_TINY = 1e-6


def dice_loss(logits: Float[Tensor, "b h w"], truth: Float[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """1 − soft Dice, per mask; 0 is perfect.

    Source: Milletari et al. 2016, doi:10.1109/3DV.2016.79, eq. 5 without squares.
    """
    found = logits.sigmoid()
    both = (found * truth).sum(dim=(1, 2))
    return 1 - (2 * both + 1) / (found.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)


def focal_loss(
    logits: Float[Tensor, "b h w"],
    truth: Float[Tensor, "b h w"],
    gamma: float = 2.0,
    positive: float = 1.0,
) -> Float[Tensor, " b"]:
    """Cross-entropy that looks away from pixels already decided, averaged per mask.

    Args:
        gamma: 0 gives plain cross-entropy.
        positive: How much more a pixel of the object counts than one of the ground.

    Source: Lin et al. 2017, doi:10.1109/ICCV.2017.324, eq. 4.
    """
    weight = torch.tensor(positive, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none", pos_weight=weight)
    if gamma:
        found = logits.sigmoid()
        correct = found * truth + (1 - found) * (1 - truth)
        entropy = entropy * (1 - correct) ** gamma
    return entropy.mean(dim=(1, 2))


def soft_skeleton(mask: Float[Tensor, "b h w"], rounds: int = 8) -> Float[Tensor, "b h w"]:
    """A differentiable skeleton of soft masks.

    Args:
        rounds: At least half the width of the widest vessel, px.

    Source: Shit et al. 2021, doi:10.1109/CVPR46437.2021.01629, algorithm 1.
    """
    image = mask[:, None]

    def eroded(x: Tensor) -> Tensor:
        vertical = -F.max_pool2d(-x, (3, 1), stride=1, padding=(1, 0))
        horizontal = -F.max_pool2d(-x, (1, 3), stride=1, padding=(0, 1))
        return torch.min(vertical, horizontal)

    def opened(x: Tensor) -> Tensor:
        return F.max_pool2d(eroded(x), 3, stride=1, padding=1)

    skeleton = F.relu(image - opened(image))
    for _ in range(rounds):
        image = eroded(image)
        delta = F.relu(image - opened(image))
        skeleton = skeleton + F.relu(delta - skeleton * delta)
    return skeleton[:, 0]


def centreline_loss(
    logits: Float[Tensor, "b h w"], truth: Float[Tensor, "b h w"]
) -> Float[Tensor, " b"]:
    """1 − soft clDice, per mask: both skeletons should lie inside the other mask.

    Source: Shit et al. 2021, doi:10.1109/CVPR46437.2021.01629, algorithm 2.
    """
    found = logits.sigmoid()
    skeleton_found, skeleton_true = soft_skeleton(found), soft_skeleton(truth)
    precision = ((skeleton_found * truth).sum(dim=(1, 2)) + 1) / (
        skeleton_found.sum(dim=(1, 2)) + 1
    )
    recall = ((skeleton_true * found).sum(dim=(1, 2)) + 1) / (skeleton_true.sum(dim=(1, 2)) + 1)
    return 1 - 2 * precision * recall / (precision + recall)


def iou(found: Bool[Tensor, "b h w"], truth: Bool[Tensor, "b h w"]) -> Float[Tensor, " b"]:
    """Intersection over union per mask; 1 where both are empty."""
    both = (found & truth).sum(dim=(1, 2)).float()
    either = (found | truth).sum(dim=(1, 2)).float()
    return torch.where(either > 0, both / either.clamp(min=_TINY), torch.ones_like(either))


def mask_loss(
    logits: Float[Tensor, "b h w"],
    truth: Float[Tensor, "b h w"],
    *,
    centreline: float = 0.0,
    gamma: float = 0.0,
    positive: float = 4.0,
    entropy: float = 5.0,
) -> Float[Tensor, " b"]:
    """Cross-entropy plus Dice, and clDice by its weight, per mask.

    A vessel covers a few percent of its window, so cross-entropy averaged over the window is small
    and mostly about the ground: it is weighted up, and pixels of the object within it.

    Args:
        centreline: Weight of the clDice term, 0 leaves it out.
        gamma: Focus of the cross-entropy term, see `focal_loss`.
        positive: How much more a pixel of the object counts than one of the ground.
        entropy: Weight of the cross-entropy term.
    """
    loss = entropy * focal_loss(logits, truth, gamma, positive) + dice_loss(logits, truth)
    if centreline:
        loss = loss + centreline * centreline_loss(logits, truth)
    return loss


def apart_loss(
    logits: Float[Tensor, "q h w"],
    truth: Bool[Tensor, "q h w"],
    image_index: Int[Tensor, " q"],
) -> Float[Tensor, ""]:
    """How far names of one image are from being told apart; log 2 where they are not at all.

    Where something is under one name and not under another of the same image, the first must be
    surer than the second; a pixel under both says nothing. Losses of single masks hardly see the
    difference: a map of everything that any name means is a place where they rest.

    Args:
        image_index: The image each name is asked of.
    """
    terms = []
    for own in range(len(logits)):
        for other in (image_index == image_index[own]).nonzero()[:, 0].tolist():
            here = truth[own] & ~truth[other]
            if bool(here.any()):
                terms.append(F.softplus(logits[other][here] - logits[own][here]).mean())
    return torch.stack(terms).mean() if terms else logits.sum() * 0.0
