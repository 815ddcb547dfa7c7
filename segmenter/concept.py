"""The concept path in training: a word asks for all instances; sam3's own matcher and losses.

Works on the model's square. Knows nothing of images, labels or adapters.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from casebook.cases import View
from segmenter.heads import view_numbers
from segmenter.interactive import boxes_of, upsampled
from segmenter.losses import apart_loss, mask_loss
from segmenter.sam3 import Sam3
from segmenter.upstream import import_upstream

_modules = import_upstream(
    (
        "sam3.model.data_misc",
        "sam3.train.matcher",
        "sam3.train.loss.loss_fns",
        "sam3.train.loss.sam3_loss",
    )
)
_losses: Any = _modules["sam3.train.loss.loss_fns"]
_matcher: Any = _modules["sam3.train.matcher"]


SCALE = 40.0
"""sam3's detection losses sum to some 40 times a mask loss; divided by it, one clip serves both."""


@dataclass(frozen=True)
class ConceptQuery:
    """A word asked of one image of a batch, with every instance of it; none is an answer too."""

    image_index: int
    concept: str
    instances: Bool[Tensor, "n s s"]
    view: View | None = None


def _focal_without_triton(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The focal loss with its fused kernel turned off: it needs triton and a GPU."""

    def focal(*args: Any, **kwargs: Any) -> Tensor:
        return original(*args, **{**kwargs, "triton": False})

    return focal


# On Windows there is CUDA without triton.
if not torch.cuda.is_available() or importlib.util.find_spec("triton") is None:
    _losses.sigmoid_focal_loss = _focal_without_triton(_losses.sigmoid_focal_loss)


def detection_loss(queries: int) -> Any:
    """sam3's matcher and losses with its own weights.

    Args:
        queries: Object queries of the model, which the presence loss is scaled by.

    Source: sam3 0.1.4, train/loss; weights as in the repository's fine-tuning configurations.
    """
    return _modules["sam3.train.loss.sam3_loss"].Sam3LossWrapper(
        normalization="local",
        matcher=_matcher.BinaryHungarianMatcherV2(
            focal=True,
            cost_class=2.0,
            cost_bbox=5.0,
            cost_giou=2.0,
            alpha=0.25,
            gamma=2,
            stable=False,
        ),
        o2m_matcher=_matcher.BinaryOneToManyMatcher(alpha=0.3, threshold=0.4, topk=4),
        o2m_weight=2.0,
        use_o2m_matcher_on_o2m_aux=False,
        loss_fns_find=[
            _losses.Boxes(weight_dict={"loss_bbox": 5.0, "loss_giou": 2.0}),
            _losses.IABCEMdetr(
                weak_loss=False,
                weight_dict={"loss_ce": 20.0, "presence_loss": 20.0},
                pos_weight=10.0,
                alpha=0.25,
                gamma=2,
                use_presence=True,
                pos_focal=False,
                pad_n_queries=queries,
                pad_scale_pos=1.0,
            ),
            _losses.Masks(
                focal_alpha=0.25,
                focal_gamma=2.0,
                weight_dict={"loss_mask": 200.0, "loss_dice": 10.0},
                compute_aux=False,
            ),
        ],
    )


def _centre_boxes(instances: Bool[Tensor, "n s s"]) -> Float[Tensor, "n 4"]:
    """Centre, width and height of each mask, as fractions of the square."""
    side = instances.shape[-1]
    x1, y1, x2, y2 = boxes_of(instances).unbind(dim=1)
    boxes = torch.stack([(x1 + x2 + 1) / 2, (y1 + y2 + 1) / 2, x2 - x1 + 1, y2 - y1 + 1], dim=1)
    return boxes / side


def targets_of(queries: Sequence[ConceptQuery]) -> Any:
    """The truth of the queries in the layout sam3's losses read."""
    counts = [len(query.instances) for query in queries]
    segments = torch.cat([query.instances for query in queries])
    boxes = _centre_boxes(segments)
    padded = torch.zeros(len(queries), max(1, *counts), 4)
    ids = torch.full(padded.shape[:2], -1, dtype=torch.long)
    start = 0
    for row, count in enumerate(counts):
        padded[row, :count] = boxes[start : start + count]
        ids[row, :count] = torch.arange(start, start + count)
        start += count
    return _modules["sam3.model.data_misc"].BatchedFindTarget(
        num_boxes=torch.tensor(counts),
        boxes=boxes,
        boxes_padded=padded,
        repeated_boxes=boxes,
        segments=segments,
        semantic_segments=torch.stack([query.instances.any(dim=0) for query in queries]),
        is_valid_segment=torch.ones(len(segments), dtype=torch.bool),
        is_exhaustive=torch.ones(len(queries), dtype=torch.bool),
        object_ids=torch.arange(len(segments)),
        object_ids_padded=ids,
    )


def _moved(target: Any, device: torch.device) -> Any:
    """sam3's target record with every tensor on a device."""
    for name, value in vars(target).items():
        if isinstance(value, Tensor):
            setattr(target, name, value.to(device))
    return target


def concept_loss(
    model: Sam3,
    criterion: Any,
    pixels: Float[Tensor, "i 3 s s"],
    queries: Sequence[ConceptQuery],
    apart: float = 0.0,
) -> dict[str, Tensor]:
    """The loss of one step, by name; the model must be in training mode.

    Beside sam3's losses of single instances the dense map of the concept is trained: it learns from
    far fewer pictures than the object queries do.

    Args:
        apart: Weight of the term by which names of one image are told apart.
    """
    concepts = sorted({query.concept for query in queries})
    device = model.device
    text_index = torch.tensor([concepts.index(query.concept) for query in queries], device=device)
    image_index: Int[Tensor, " q"] = torch.tensor(
        [query.image_index for query in queries], device=device
    )
    vision = model.concept_features(model.trunk(pixels))
    target = _moved(targets_of(queries), device)
    out = model.ground(
        vision,
        model.text_features(concepts),
        image_index,
        text_index,
        views=view_numbers([query.view for query in queries]),
        target=target,
    )
    losses: dict[str, Tensor] = criterion.compute_loss(out, model.image.back_convert(target))
    dense = upsampled(out["semantic_seg"][:, 0], pixels.shape[-1])
    semantic = mask_loss(dense, target.semantic_segments.float()).mean()
    terms = {"loss": losses["core_loss"] + SCALE * semantic, "semantic": semantic}
    if apart:
        terms["apart"] = apart_loss(dense, target.semantic_segments, image_index)
        terms["loss"] = terms["loss"] + SCALE * apart * terms["apart"]
    return terms
