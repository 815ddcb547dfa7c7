"""One round's LoRA training: expert masks in, an adapter folder out.

Each step trains one path: single masks from boxes and clicks, in windows as the teacher would lay
them, or concepts on whole frames. Knows no round directory and no medical label.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from casebook.errors import ConfigError
from segmenter import adapter as adapters
from segmenter import tuning
from segmenter.concept import SCALE, concept_loss, detection_loss
from segmenter.fit import FitResult, LoraConfig, Progress, TrainConfig, fit
from segmenter.heads import Heads, head_sizes, heads_loss, load_heads, save_heads
from segmenter.interactive import PromptMix, interactive_loss
from segmenter.prompts import WindowConfig
from segmenter.ranks import leads
from segmenter.sam3 import Features, Sam3
from segmenter.samples import Augmentation, Batch, RoundData, Sample
from segmenter.steps import WHOLE, Part
from segmenter.teacher import default_windows
from segmenter.validation import box_iou
from segmenter.views import ViewEmbedding, load_view, save_view
from segmenter.weights import base_sha256, load_base, read_sizes

_NAME = "candidate"
HEADS = "heads"
"""Name of the heads within the model while they are trained."""
ROUND_MIX = PromptMix(box=0.7, box_and_click=0.15, click=0.15, jitter_fraction=0.04, jitter_px=1.5)
"""Prompts of a round: readers' boxes fit closely, closer than the pre-training's."""


@dataclass(frozen=True)
class RoundResult:
    """Where the trained adapter is and how its training went."""

    folder: Path
    fit: FitResult
    n_trainable: int
    n_params: int
    n_frames: int
    n_masks: int
    base_sha256: str
    figures: Mapping[str, float] = field(default_factory=dict)


def _check_gradients(
    model: Sam3,
    loss: Callable[[Batch, torch.Generator], Mapping[str, Tensor]],
    data: RoundData,
    config: TrainConfig,
) -> None:
    """One backward pass of each path, to refuse weights that no path trains."""
    kinds = {data.is_concept(step): step for step in range(max(2, config.concept_every))}
    for step in kinds.values():
        loss(data.batch(step), torch.Generator().manual_seed(0))["loss"].backward()
    if config.strategy == "lora":
        adapters.require_gradients(model)
    else:
        tuning.freeze_idle(model)
    model.zero_grad(set_to_none=True)


def _go_on(model: Sam3, init_adapter: Path, config: TrainConfig, digest: str) -> LoraConfig:
    """Attach the incumbent's adapter for further training; its sizes come back.

    Raises:
        ConfigError: it was trained by another strategy.
    """
    settings = adapters.load_adapter(model, init_adapter, _NAME, base_sha256=digest)
    if settings.strategy != config.strategy:
        raise ConfigError(
            f"train.strategy is {config.strategy}, the model to continue from was trained by "
            f"{settings.strategy}; set the same strategy, or `init: base`"
        )
    adapters.activate(model, _NAME)
    if settings.strategy != "lora":
        tuning.unfreeze(model, _NAME)
    return settings.lora.model_copy(update={"dropout": config.lora.dropout})


def _heads_of(
    model: Sam3, config: TrainConfig, init_adapter: Path | None, data: RoundData
) -> Heads | None:
    """The heads to train, the incumbent's where it has some; part of the model from here on."""
    if config.heads is None:
        return None
    width, fine_width = head_sizes(model)
    found = load_heads(init_adapter, width, fine_width) if init_adapter is not None else None
    wanted = (config.heads.hidden, config.heads.uses_place)
    if found is None or (found.config.hidden, found.config.uses_place) != wanted:
        found = Heads(config.heads, width, fine_width)
        found.begin_at(data.head_targets, model.config.mask_side)
    heads = found.to(model.device).train()
    model.add_module(HEADS, heads)
    return heads


def _view_of(model: Sam3, config: TrainConfig, init_adapter: Path | None) -> ViewEmbedding | None:
    """The view's embedding to train, the incumbent's where it has one."""
    if not config.view_embedding:
        return None
    width = model.config.width
    found = load_view(init_adapter, width) if init_adapter is not None else None
    return (found or ViewEmbedding(width)).requires_grad_().to(model.device)


def _asking(
    heads: Heads, batch: Batch, weights: Float[Tensor, " b"]
) -> Callable[[Features, Tensor, slice], Mapping[str, Tensor]]:
    """What a step asks the heads, and how wrong they are."""

    def ask(features: Features, logits: Tensor, rows: slice) -> Mapping[str, Tensor]:
        if batch.views is None or batch.places is None or batch.heads is None:
            return {}
        device, truth = logits.device, batch.heads.rows(rows)
        views, places = batch.views[rows].to(device), batch.places[rows].to(device)
        share = len(views) / len(batch.views)
        said = heads(features, logits, views, places)
        terms = heads_loss(said, truth.to(device), weights[rows])
        return {**terms, "heads": heads.config.weight * share * terms["heads"]}

    return ask


def train_adapter(
    samples: Sequence[Sample],
    config: TrainConfig,
    *,
    base: Path,
    init_adapter: Path | None,
    directory: Path,
    windows: WindowConfig | None = None,
    augmentation: Augmentation | None = None,
    mix: PromptMix | None = None,
    progress: Callable[[Progress], None] | None = None,
    device: str | None = None,
    validation: Sequence[Sample] = (),
) -> RoundResult:
    """Train an adapter on a round's masks and write it to `directory/adapter`.

    Under `segmenter.ranks.joined` every process shares each batch and the first writes the files.
    Continues from another adapter where one is given, and from the checkpoint of an interrupted run
    of the same settings. The same samples, settings and seed give the same adapter on a CPU.

    Args:
        base: Folder of the base model.
        init_adapter: Folder of the incumbent's adapter; None starts from the base.
        directory: For checkpoints, curves and the result.
        validation: Frames that do not train, by which `config.stop` ends the training.

    Raises:
        ConfigError: weights of three masks shall be trained where one is answered.
        DataError: there is no mask to train on.
        ModelError: the base or the adapter cannot be loaded.
        TrainingError: the loss is not finite, or a trained weight gets no gradient.
    """
    multimask = config.multimask or read_sizes(base).multimask
    if "multimask_heads" in config.lora.whole and not multimask:
        raise ConfigError(
            "lora.whole names multimask_heads, which nothing teaches here: this base answers a "
            "click by one mask; set train.multimask, or take them out"
        )
    torch.manual_seed(config.seed)
    started = time.monotonic()
    model = load_base(base, matching=True)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    digest = base_sha256(base)
    lora = config.lora
    if init_adapter is None:
        adapters.begin(model, lora, config.strategy, _NAME)
    else:
        lora = _go_on(model, init_adapter, config, digest)
    sizes = model.config
    laid = windows or default_windows(model)
    if config.zoom:
        laid = laid.model_copy(update={"zoom": True})
    if config.tile is not None:
        laid = laid.model_copy(update={"tile": config.tile})
    data = RoundData(
        samples,
        config,
        laid,
        augmentation or Augmentation(),
        sizes.side_px,
        sizes.queries,
        standardised=sizes.standardised,
    )
    heads = _heads_of(model, config, init_adapter, data)
    model.view_embedding = _view_of(model, config, init_adapter)
    model.train()
    criterion = detection_loss(sizes.queries)
    prompts = mix or ROUND_MIX

    def loss(batch: Batch, generator: torch.Generator, part: Part = WHOLE) -> dict[str, Tensor]:
        pixels = batch.pixels.to(model.device)
        if batch.truth is None or batch.weights is None:
            queries = batch.queries[part.rows(len(batch.queries))]
            if not queries:
                return {"loss": torch.zeros((), device=model.device)}
            asked = concept_loss(model, criterion, pixels, queries, config.apart)
            concept = asked["loss"] / SCALE * (len(queries) / len(batch.queries))
            return {**asked, "loss": concept, "concept": concept}
        index: Int[Tensor, " i"] = torch.arange(len(pixels), device=model.device)
        weights = batch.weights.to(model.device)
        terms = interactive_loss(
            model,
            pixels,
            index,
            batch.truth.to(model.device),
            prompts,
            generator,
            weights=weights,
            centreline=config.centreline,
            heads=_asking(heads, batch, weights) if heads is not None else None,
            multimask=multimask,
            part=part,
        )
        return {**terms, "mask": terms["loss"]}

    _check_gradients(model, loss, data, config)
    steps = config.steps
    if steps is None and config.minutes is None:
        steps = max(1, round(config.epochs * data.steps_per_epoch))
    result = fit(
        model,
        loss,
        data.batch,
        config,
        steps=steps,
        directory=directory / "checkpoints",
        progress=progress,
        part_loss=loss,
        names=data.names,
        faster={f"{HEADS}.": heads.config.lr_factor} if heads is not None else None,
        validate=(lambda: box_iou(model, laid, validation)) if validation else None,
    )
    folder = directory / "adapter"
    if leads():
        adapters.save_adapter(
            model,
            _NAME,
            lora,
            folder,
            base_sha256=digest,
            strategy=config.strategy,
            zoom=laid.zoom,
            view_in_text=config.view_in_text,
            multimask=multimask,
            tile=laid.tile,
        )
        if heads is not None:
            save_heads(heads, folder)
        if model.view_embedding is not None:
            save_view(model.view_embedding, folder)
    return RoundResult(
        folder=folder,
        fit=result,
        n_trainable=sum(p.numel() for p in adapters.trainable(model).values()),
        n_params=sum(p.numel() for p in model.parameters()),
        n_frames=len(samples),
        n_masks=data.n_masks,
        base_sha256=digest,
        figures={**result.figures, "wall_s": time.monotonic() - started},
    )
