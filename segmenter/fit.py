"""The one training loop: AdamW, a schedule, checkpoints that resume to the same weights.

A batch is a pure function of the step number, and so is all randomness of a step; a checkpoint
therefore needs no sampler or generator state beyond the step. Knows nothing of models or data.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from casebook.errors import AngioloopError, ConfigError, TrainingError
from segmenter.checkpoints import State, resume, save
from segmenter.steps import Part, Step
from segmenter.stopping import StopConfig, put
from segmenter.tuning import Strategy

B = TypeVar("B")


class LoraConfig(BaseModel):
    """Which weights get a low-rank update, and how large it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: tuple[str, ...] = ("vit", "mask_decoder", "detector")
    """Groups of layers, see `segmenter/adapter.py`."""
    layers: tuple[str, ...] = ()
    """Further layers, by regular expressions of full names; refused if one gets no gradient."""
    whole: tuple[str, ...] = ()
    """Groups of small modules that are trained whole beside the low-rank updates."""


class HeadsConfig(BaseModel):
    """Whether and how a training teaches the heads."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(0.2, gt=0)
    """Of their loss beside the mask's."""
    hidden: int = Field(64, ge=8)
    dropout: float = Field(0.1, ge=0, lt=1)
    uses_view: bool = True
    """Whether they are told the view's angles."""
    uses_place: bool = True
    """Whether they are told where in the frame the mask lies."""
    lr_factor: float = Field(5.0, gt=0)
    """Their learning rate over the training's: they start from nothing, the rest does not."""


class TrainConfig(BaseModel):
    """How one training runs; the same values and data give the same weights on a CPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(20, gt=0)
    """Passes over the data …"""
    steps: int | None = Field(None, gt=0)
    """… or, given, exactly this many steps …"""
    minutes: float | None = Field(None, gt=0)
    """… or until this much time has passed; the schedule then follows the clock."""
    lr: float = Field(1e-4, gt=0)
    lr_floor: float = Field(0.02, ge=0, le=1)
    """The share of `lr` left at the end."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls from `lr` to its floor after the warm-up; constant: it stays."""
    batch: int = Field(8, gt=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the training during which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""
    ema: float = Field(0.0, ge=0, lt=1)
    """Decay of the running average of weights that is kept in the end; 0 keeps the last ones."""
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    log_every: int = Field(10, gt=0)
    checkpoint_every: int = Field(200, gt=0)
    concept_every: int = Field(4, ge=0)
    """Every n-th step trains the concept path; 0 never, 1 every step: nothing is asked by box."""
    hard_negatives: float = Field(0.0, ge=0, le=1)
    """Of the concepts asked for that are not there, the share easily taken for what is."""
    apart: float = Field(0.0, ge=0)
    """Weight of the term by which names asked of one frame are told apart, beside the maps'; where
    a batch is divided, names of one part are."""
    accumulate: int = Field(1, gt=0)
    """Parts a batch is taken in, one after another: less memory, the same step."""
    processes: int | None = Field(None, gt=0)
    """Processes that share each batch; one a visible GPU when absent."""
    centreline: float = Field(0.0, ge=0)
    """Weight of the clDice term of the mask loss."""
    stop: StopConfig | None = None
    """When the training ends before its last step; never when absent."""
    zoom: bool = False
    """Train for, and answer with, a second look in a window around the prompt or first answer."""
    multimask: bool = False
    """Learn three masks for one click alone, and answer it by the best; always where the base does.
    """
    tile: float | None = Field(None, ge=0.1, lt=1)
    """Learn, and look for, concepts in squares of this share of the image's longer side, by their
    dense maps; as the base does when absent."""
    view_in_text: bool = False
    """Learn, and ask for, concepts with the view's angles in words, where they are known."""
    view_embedding: bool = False
    """Learn what the view's angles, as numbers, add to the text of concepts."""
    strategy: Strategy = "lora"
    """What is changed: see `segmenter/tuning.py`; `lora` below holds for the first only."""
    lora: LoraConfig = LoraConfig()
    heads: HeadsConfig | None = None
    """Segment code, stenosis and diameters learnt beside the mask; none when absent."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int
    steps: int | None
    """None when the clock decides."""
    fraction: float
    seconds: float
    figures: Mapping[str, float]
    """Averages since the last report."""


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    steps: int
    seconds: float
    figures: Mapping[str, float]
    resumed_from: int
    """Step of the checkpoint the run started from; 0 for a fresh one."""


def fit(
    module: nn.Module,
    loss: Callable[[B, torch.Generator], Mapping[str, Tensor]],
    batches: Callable[[int], B],
    config: TrainConfig,
    *,
    steps: int | None,
    directory: Path,
    progress: Callable[[Progress], None] | None = None,
    on_checkpoint: Callable[[Mapping[str, Tensor], Progress], None] | None = None,
    part_loss: Callable[[B, torch.Generator, Part], Mapping[str, Tensor]] | None = None,
    names: Callable[[int], str] | None = None,
    validate: Callable[[], float] | None = None,
    faster: Mapping[str, float] | None = None,
) -> FitResult:
    """Train the parameters of a module that require a gradient; resumes what the directory holds.

    Under torchrun every process calls this with the same arguments; the first writes the files.

    Args:
        loss: Gives "loss" to minimise and any other figures to report.
        batches: The batch of a step; must not depend on anything else.
        steps: Steps in all; None when `config.minutes` decides.
        directory: For checkpoints and curves.
        on_checkpoint: Called with the weights as they would be kept.
        part_loss: The share of a part of the batch in its loss: the shares add up to `loss`. With
            it, processes and `config.accumulate` divide a batch; without it every process takes a
            batch of its own.
        names: What a step's batch is made of, for messages.
        validate: Scores the parameters as they stand on cases that do not train; `config.stop` says
            when. The weights of the best look are kept.
        faster: Factors of the learning rate, by how names of parameters begin.

    Raises:
        TrainingError: the loss is not finite, or memory ran out although the batch was divided; the
            last good weights are in the last checkpoint.
        ConfigError: the directory holds a run with other settings, or the module is a DataParallel.
    """
    if steps is None and config.minutes is None:
        raise ConfigError("neither steps nor minutes say how long to train; set one")
    if config.stop is not None and validate is None:
        raise ConfigError("train.stop is set, but this training has no validation cases; remove it")
    if isinstance(module, nn.DataParallel):
        raise ConfigError(
            "DataParallel breaks SAM 3's rotary tables; use torchrun, a process a GPU"
        )
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not named:
        raise TrainingError("nothing to train: no parameter requires a gradient; check the targets")
    optimizer = torch.optim.AdamW(
        _groups(named, config, faster or {}), lr=config.lr, betas=(0.9, 0.98)
    )
    state = resume(directory, named, optimizer, _fingerprint(config))
    resumed_from = state.step
    if config.ema and not state.ema:
        state.ema = {name: p.detach().clone() for name, p in named.items()}
    step = Step(named, loss, part_loss, config)
    writer = SummaryWriter(str(directory / "curves"), purge_step=state.step) if step.leads else None
    sums: dict[str, float] = {}
    counted = 0
    figures: dict[str, float] = {}
    before, started = state.seconds, time.monotonic()

    def report() -> Progress:
        return Progress(
            state.step, steps, min(1.0, _fraction(state, steps, config)), state.seconds, figures
        )

    def is_over() -> bool:
        stopped = config.stop is not None and state.best.is_enough(config.stop)
        return stopped or _fraction(state, steps, config) >= 1.0

    try:
        while not is_over():
            lr = _lr(_fraction(state, steps, config), config)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]
            optimizer.zero_grad(set_to_none=True)
            terms = step.gradients(batches, state.step)
            norm = nn.utils.clip_grad_norm_(named.values(), config.clip)
            if not (math.isfinite(terms["loss"]) and torch.isfinite(norm).item()):
                if step.leads:
                    save(directory, named, optimizer, state, _fingerprint(config))
                made_of = f" ({names(state.step)})" if names is not None else ""
                raise TrainingError(
                    f"step {state.step}{made_of}: the loss or its gradient is not finite; the "
                    f"weights before it are in {directory}. Look at that batch, or lower lr "
                    f"({config.lr:g}) or clip ({config.clip:g})."
                )
            optimizer.step()
            state.step += 1
            state.seconds = before + time.monotonic() - started
            for name, average in state.ema.items():
                # A short memory at first, so that the random start is forgotten.
                decay = min(config.ema, (1 + state.step) / (10 + state.step))
                average.lerp_(named[name].detach(), 1 - decay)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
                sums[f"n:{name}"] = sums.get(f"n:{name}", 0.0) + 1
            counted += 1
            stop, is_last = config.stop, is_over()
            looks = stop is not None and state.best.is_due(state.step, stop, is_last=is_last)
            if stop is not None and validate is not None and looks:
                sums["val"] = state.best.look(state.step, named, state.ema, validate, stop)
                sums["n:val"] = 1.0
                is_last = is_over()
            if counted >= config.log_every or is_last:
                figures = {
                    name: total / sums[f"n:{name}"]
                    for name, total in sums.items()
                    if not name.startswith("n:")
                }
                figures["lr"] = lr
                sums, counted = {}, 0
                if writer is not None:
                    for name, figure in figures.items():
                        writer.add_scalar(name, figure, state.step)
                if progress is not None and step.leads:
                    try:
                        progress(report())
                    except AngioloopError:  # told to stop: what is done is kept
                        save(directory, named, optimizer, state, _fingerprint(config))
                        raise
            if state.step % config.checkpoint_every == 0 or is_last:
                if step.leads:
                    save(directory, named, optimizer, state, _fingerprint(config))
                if on_checkpoint is not None and not is_last and step.leads:
                    on_checkpoint(state.ema or _detached(named), report())
    finally:
        if writer is not None:
            writer.close()
    put(named, state.best.weights or state.ema)
    if state.best.score is not None:
        figures = {**figures, "val": state.best.score, "val_step": float(state.best.step)}
    if on_checkpoint is not None and step.leads:
        on_checkpoint(_detached(named), report())
    return FitResult(state.step, state.seconds, figures, resumed_from)


def _detached(named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in named.items()}


def _groups(
    named: Mapping[str, nn.Parameter], config: TrainConfig, faster: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and single vectors do not; some learn faster."""
    found: list[dict[str, Any]] = []
    for start, factor in (("", 1.0), *faster.items()):
        chosen = [
            p
            for name, p in named.items()
            if name.startswith(start) and (start or not name.startswith(tuple(faster)))
        ]
        for decay, several in ((config.weight_decay, True), (0.0, False)):
            params = [p for p in chosen if (p.ndim > 1) == several]
            if params or not start:
                found.append({"params": params, "weight_decay": decay, "factor": factor})
    return found


def _fraction(state: State, steps: int | None, config: TrainConfig) -> float:
    """How much of the training is done, 0 to 1."""
    if steps is not None:
        return state.step / steps
    return state.seconds / (60.0 * (config.minutes or 1.0))


def _lr(fraction: float, config: TrainConfig) -> float:
    if fraction < config.warmup:
        return config.lr * max(fraction / config.warmup, 1e-3)
    along = min(1.0, (fraction - config.warmup) / (1 - config.warmup))
    falls = {"cosine": 0.5 * (1 + math.cos(math.pi * along)), "linear": 1 - along, "constant": 1.0}
    floor = config.lr_floor
    return config.lr * (floor + (1 - floor) * falls[config.schedule])


def _fingerprint(config: TrainConfig) -> str:
    """The settings that decide the weights; one that is absent is as before there was such."""
    left_out = {"log_every", "checkpoint_every", "accumulate", "processes"}
    since = (
        "stop",
        "zoom",
        "multimask",
        "tile",
        "view_in_text",
        "view_embedding",
        "hard_negatives",
        "apart",
    )
    left_out |= {name for name in since if not getattr(config, name)}
    return json.dumps(config.model_dump(exclude=left_out), sort_keys=True)
