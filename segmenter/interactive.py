"""The interactive path in training: boxes and clicks drawn from truth, one mask back.

A step asks once, then corrects the answer with clicks in its largest error, as a person would.
Works on the model's square. Knows nothing of images, labels or adapters.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from segmenter.losses import iou, mask_loss
from segmenter.sam3 import Features, Sam3
from segmenter.steps import WHOLE, Part

INSIDE, OUTSIDE, BOX_START, BOX_END, PADDING = 1, 0, 2, 3, -1


LOSERS = 0.15
"""Share of the mean of three masks beside the best of them: without it one that is better at the
start wins every prompt, and the others never learn.

Source: Rupprecht et al. 2017, doi:10.1109/ICCV.2017.388, equation 5."""


class PromptMix(BaseModel):
    """How training prompts are drawn from true masks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box: float = Field(0.6, ge=0)
    """Share of prompts that are a box alone."""
    box_and_click: float = Field(0.2, ge=0)
    click: float = Field(0.2, ge=0)
    """Share that are one click inside."""
    jitter_fraction: float = Field(0.08, ge=0)
    """Each box edge moves by up to this fraction of the box's side …"""
    jitter_px: float = Field(3.0, ge=0)
    """… and at most about this many px more, of the model's square."""
    corrections: int = Field(1, ge=0)
    """Clicks added after the first answer …"""
    correction_share: float = Field(0.3, ge=0, le=1)
    """… in this share of the steps."""


def boxes_of(truth: Bool[Tensor, "b s s"]) -> Float[Tensor, "b 4"]:
    """x1, y1, x2, y2 of the outermost pixels; zeros for an empty mask."""
    columns, rows = truth.any(dim=1), truth.any(dim=2)
    side = truth.shape[-1]
    first_x, first_y = columns.int().argmax(dim=1), rows.int().argmax(dim=1)
    last_x = side - 1 - columns.flip(1).int().argmax(dim=1)
    last_y = side - 1 - rows.flip(1).int().argmax(dim=1)
    found = columns.any(dim=1)
    boxes = torch.stack([first_x, first_y, last_x, last_y], dim=1).float()
    return torch.where(found[:, None], boxes, torch.zeros_like(boxes))


def centre_pixels(
    weights: Float[Tensor, "b s s"], generator: torch.Generator | None = None
) -> Float[Tensor, "b 2"]:
    """One pixel per mask, drawn in proportion to the weights; the largest without a generator."""
    flat = weights.flatten(1)
    if generator is None:
        index = flat.argmax(dim=1)
    else:
        index = torch.multinomial(flat + 1e-9, 1, generator=generator)[:, 0]
    side = weights.shape[-1]
    return torch.stack([index % side, index // side], dim=1).float()


def _smoothed(mask: Float[Tensor, "b s s"], kernel: int) -> Float[Tensor, "b s s"]:
    return F.avg_pool2d(mask[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]


def draw_prompts(
    truth: Bool[Tensor, "b s s"], mix: PromptMix, generator: torch.Generator
) -> tuple[Float[Tensor, "b 3 2"], Int[Tensor, "b 3"]]:
    """Two box corners and one click per mask, padded where the kind of prompt lacks them."""
    count, side = truth.shape[0], truth.shape[-1]
    boxes = boxes_of(truth)
    extent = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    noise = torch.rand(count, 4, generator=generator) * 2 - 1
    boxes = boxes + noise * (mix.jitter_fraction * extent + mix.jitter_px)
    boxes = boxes.clamp(0, side - 1)
    solid = truth.float()
    # Clicks prefer the middle of the object, as people do.
    clicks = centre_pixels(solid * _smoothed(solid, 5) ** 2, generator)
    points = torch.cat([boxes.view(count, 2, 2), clicks[:, None]], dim=1)
    labels = torch.tensor([[BOX_START, BOX_END, INSIDE]]).repeat(count, 1)
    total = mix.box + mix.box_and_click + mix.click
    kind = torch.rand(count, generator=generator) * total
    labels[kind < mix.box, 2] = PADDING
    labels[kind >= mix.box + mix.box_and_click, :2] = PADDING
    points = torch.where((labels == PADDING)[..., None], torch.zeros_like(points), points)
    return points, labels


def correction_clicks(
    logits: Float[Tensor, "b s s"], truth: Bool[Tensor, "b s s"]
) -> tuple[Float[Tensor, "b 1 2"], Int[Tensor, "b 1"]]:
    """A click in the thick of the largest error: inside where missed, outside where invented."""
    found = logits > 0
    wrong = found ^ truth
    depth = _smoothed(wrong.float(), 9) * wrong
    points = centre_pixels(depth)
    x, y = points.long().unbind(dim=1)
    is_missed = truth[torch.arange(len(truth), device=truth.device), y, x]
    labels = torch.where(is_missed, INSIDE, OUTSIDE)
    labels = torch.where(wrong.flatten(1).any(dim=1), labels, PADDING)
    return points[:, None], labels[:, None]


def is_ambiguous(labels: Int[Tensor, "b n"]) -> Bool[Tensor, " b"]:
    """Prompts of one click and nothing else: it may mean a part or the whole.

    Source: sam3 0.1.4, model_builder.py:463: three masks for at most one point; a box is two.
    """
    return (labels != PADDING).sum(dim=1) == 1


def likeliest(
    masks: Float[Tensor, "b 4 m m"], quality: Float[Tensor, "b 4"], ambiguous: Bool[Tensor, " b"]
) -> tuple[Float[Tensor, "b m m"], Float[Tensor, " b"]]:
    """What is answered of a decoder's masks, with its expected overlap.

    For an ambiguous prompt that is the one of the three expected to overlap most, else the first.
    """
    index = torch.where(ambiguous, 1 + quality[:, 1:].argmax(dim=1), 0)
    rows = torch.arange(len(index), device=index.device)
    return masks[rows, index], quality[rows, index]


def _best_of_three(
    masks: Float[Tensor, "b 4 m m"],
    quality: Float[Tensor, "b 4"],
    truth: Bool[Tensor, "b s s"],
    centreline: float,
) -> Float[Tensor, " b"]:
    """The loss of the best of the three masks, and of what is expected of all of them.

    Source: Kirillov et al. 2023, doi:10.1109/ICCV51070.2023.00371, section 3.
    """
    side, solid = truth.shape[-1], truth.float()
    tried = [upsampled(masks[:, index], side) for index in range(1, masks.shape[1])]
    each = torch.stack([mask_loss(logits, solid, centreline=centreline) for logits in tried], dim=1)
    true_iou = torch.stack([iou(logits > 0, truth) for logits in tried], dim=1).detach()
    expected = ((quality[:, 1:].float() - true_iou) ** 2).mean(dim=1)
    best, others = each.min(dim=1).values, each.mean(dim=1)
    return (1 - LOSERS) * best + LOSERS * others + expected


def upsampled(logits: Float[Tensor, "b m m"], side: int) -> Float[Tensor, "b s s"]:
    """Mask logits at the model's square."""
    return F.interpolate(
        logits[:, None].float(), (side, side), mode="bilinear", align_corners=False
    )[:, 0]


def interactive_loss(
    model: Sam3,
    pixels: Float[Tensor, "i 3 s s"],
    image_index: Int[Tensor, " b"],
    truth: Bool[Tensor, "b s s"],
    mix: PromptMix,
    generator: torch.Generator,
    *,
    weights: Float[Tensor, " b"] | None = None,
    centreline: float = 0.0,
    heads: Callable[[Features, Tensor, slice], Mapping[str, Tensor]] | None = None,
    multimask: bool = False,
    part: Part = WHOLE,
) -> dict[str, Tensor]:
    """The loss of one step and how well the masks overlap, by name.

    Args:
        image_index: The image each mask belongs to; several prompts share one embedding.
        weights: How much each mask counts; equal when absent.
        centreline: Weight of the clDice term.
        heads: Gives further terms from features and final mask logits; `heads` is added to the
            loss.
        multimask: Teach three masks for prompts of one click as well, of which the best counts.
        part: The masks whose share of the loss is wanted; all are drawn for, so that the shares of
            all parts add up to the loss of the whole.
    """
    # Drawn on the CPU: the same seed then gives the same prompts on every device.
    points, labels = (drawn.to(truth.device) for drawn in draw_prompts(truth.cpu(), mix, generator))
    share = torch.ones(len(truth), device=truth.device) if weights is None else weights
    share = share / share.sum().clamp(min=1e-6)
    corrections = 0
    if mix.corrections and float(torch.rand(1, generator=generator)) < mix.correction_share:
        corrections = mix.corrections
    rows = part.rows(len(truth))
    truth, share, points, labels = truth[rows], share[rows], points[rows], labels[rows]
    wanted, image_index = torch.unique(image_index[rows], return_inverse=True)
    features = model.encode(pixels[wanted]).rows(image_index)
    solid, side = truth.float(), truth.shape[-1]
    previous: Tensor | None = None
    total = overlap = torch.zeros((), device=truth.device)
    for turn in range(corrections + 1):
        # With an earlier answer a single click says what is wrong with it.
        several = multimask and turn == 0
        if several:
            masks, expected = model.candidates(features, points, labels)
            low, quality = masks[:, 0], expected[:, 0]
        else:
            low, quality = model.decode(features, points, labels, previous)
        logits = upsampled(low, side)
        true_iou = iou(logits > 0, truth).detach()
        per_mask = mask_loss(logits, solid, centreline=centreline)
        per_mask = per_mask + (quality.float() - true_iou) ** 2
        if several:
            ambiguous = is_ambiguous(labels)
            best = _best_of_three(
                masks[ambiguous], expected[ambiguous], truth[ambiguous], centreline
            )
            per_mask = per_mask.index_add(0, ambiguous.nonzero()[:, 0], best)
            # What is answered, and so corrected, is what a person would be shown.
            low, _ = likeliest(masks, expected, ambiguous)
            logits = upsampled(low, side)
            true_iou = iou(logits > 0, truth).detach()
        total = total + (per_mask * share).sum() / (corrections + 1)
        if turn == 0:
            overlap = (true_iou * share).sum()
        if turn < corrections:
            more, kinds = correction_clicks(logits.detach(), truth)
            points, labels = torch.cat([points, more], dim=1), torch.cat([labels, kinds], dim=1)
            previous = low.detach().float()[:, None]
    more_terms = heads(features, low.detach(), rows) if heads is not None else {}
    total = total + more_terms.get("heads", 0.0)
    return {**more_terms, "loss": total, "iou": overlap / share.sum().clamp(min=1e-6)}
