"""Weights an adapter holds whole instead of as low-rank updates: chosen, swapped in, swapped out.

Decoder tuning and full fine-tuning keep what they trained of the base's own weights; while such an
adapter is in use, the base's values wait in memory. Knows neither losses nor files.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from casebook.errors import ConfigError

Strategy = Literal["lora", "decoder", "full"]
"""What a training changes.

lora: low-rank updates beside the frozen base, and small modules whole. decoder: the prompt encoder,
the mask decoder and the detector's decoder and heads, over a frozen image encoder. full: every
weight that the trained paths use.
"""

PATTERNS: dict[Strategy, str] = {
    "decoder": (
        r".*\.sam_(prompt_encoder|mask_decoder)\..*"
        r"|image\.(segmentation_head|dot_prod_scoring)\..*"
        r"|image\.transformer\.decoder\..*"
        r"|.*\.language_backbone\.resizer\..*"
    ),
    "full": r".*",
}
"""Names of the weights a strategy trains, as the bare base calls them."""

_ADDED = (".lora_", ".modules_to_save.")
"""Parts of names that peft adds; heads beside the image model are not the base's either."""
_ATTRIBUTE = "angioloop_swapped"


@dataclass
class _Swapped:
    """What a model's weights were before, and what each adapter holds of them."""

    base: dict[str, Tensor] = field(default_factory=dict)
    held: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    active: str | None = None


def _plain(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The base's own weights by the name they have in a bare model."""
    for name, parameter in model.named_parameters():
        if name.startswith("image.") and not any(part in name for part in _ADDED):
            yield name.replace(".base_layer.", ".").replace(".original_module.", "."), parameter


def free(model: nn.Module, strategy: Strategy) -> None:
    """Let the weights of a strategy be trained, and no other.

    Raises:
        ConfigError: the strategy has no weights of its own.
    """
    if strategy not in PATTERNS:
        raise ConfigError(
            f"strategy {strategy} trains no weight whole; valid are {', '.join(PATTERNS)}"
        )
    pattern = re.compile(PATTERNS[strategy])
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, parameter in _plain(model):
        parameter.requires_grad_(pattern.fullmatch(name) is not None)


def freeze_idle(model: nn.Module) -> list[str]:
    """Freeze the weights that got no gradient from any trained path; their names come back.

    A whole model holds parts that these paths never call, such as the tracker's memory.
    """
    idle = [
        (name, parameter)
        for name, parameter in _plain(model)
        if parameter.requires_grad and parameter.grad is None
    ]
    for _, parameter in idle:
        parameter.requires_grad_(False)
    return [name for name, _ in idle]


def trained(model: nn.Module) -> dict[str, Tensor]:
    """What a training by `decoder` or `full` holds, by plain names."""
    return {
        name: parameter.detach().cpu().contiguous().clone()
        for name, parameter in _plain(model)
        if parameter.requires_grad
    }


def misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str | None:
    """The first weight that this model lacks or has in another shape; None when all fit."""
    shapes = {name: parameter.shape for name, parameter in _plain(model)}
    wrong = sorted(name for name, value in state.items() if shapes.get(name) != value.shape)
    return wrong[0] if wrong else None


def hold(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """Remember an adapter's weights under its name; `use` puts them in."""
    _swapped(model).held[name] = dict(state)


def use(model: nn.Module, name: str | None) -> None:
    """Put an adapter's weights in place of the base's; the base's own for any other name."""
    swapped = _swapped(model)
    wanted = name if name in swapped.held else None
    if wanted == swapped.active:
        return
    weights = dict(_plain(model))
    with torch.no_grad():
        for key, value in swapped.base.items():
            weights[key].copy_(value)
        swapped.base = {}
        if wanted is not None:
            for key, value in swapped.held[wanted].items():
                swapped.base[key] = weights[key].detach().clone()
                weights[key].copy_(value)
    swapped.active = wanted


def forget(model: nn.Module, name: str) -> None:
    """Drop an adapter's weights; the base's come back if they were in use."""
    swapped = _swapped(model)
    if swapped.active == name:
        use(model, None)
    swapped.held.pop(name, None)


def unfreeze(model: nn.Module, name: str) -> None:
    """Go on training the weights an adapter holds."""
    held = _swapped(model).held[name]
    for key, parameter in _plain(model):
        parameter.requires_grad_(key in held)


def _swapped(model: nn.Module) -> _Swapped:
    found = getattr(model, _ATTRIBUTE, None)
    if not isinstance(found, _Swapped):
        found = _Swapped()
        setattr(model, _ATTRIBUTE, found)
    return found
