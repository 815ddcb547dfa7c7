"""Checkpoints of a training: everything that decides how it goes on, as plain tensors.

Knows neither settings nor data; a text says which settings a checkpoint belongs to.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from casebook.documents import write_bytes
from casebook.errors import ConfigError
from segmenter.stopping import Best, put


@dataclass
class State:
    """Where a training stands, beside weights and optimiser."""

    step: int = 0
    seconds: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)
    """Running averages of the weights."""
    best: Best = field(default_factory=Best)


def _checkpoints(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*.safetensors"))


def save(
    directory: Path,
    named: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: State,
    settings: str,
) -> None:
    """Write one checkpoint atomically and drop all but the last two."""
    kept = {
        "weight": {name: p.detach() for name, p in named.items()},
        "ema": state.ema,
        "best": state.best.weights,
    }
    tensors = {
        f"{kind}.{name}": value.cpu().contiguous()
        for kind, values in kept.items()
        for name, value in values.items()
    }
    for name, parameter in named.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    metadata = {"step": str(state.step), "seconds": repr(state.seconds), "config": settings}
    if state.best.score is not None:
        metadata |= {
            "best_score": repr(state.best.score),
            "best_step": str(state.best.step),
            "waited": str(state.best.waited),
        }
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{state.step:08d}.safetensors"
    write_bytes(path, to_bytes(tensors, metadata))
    for old in _checkpoints(directory)[:-2]:
        old.unlink()


def resume(
    directory: Path,
    named: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: str,
) -> State:
    """Go on from the last checkpoint of a directory; a fresh state where there is none.

    Raises:
        ConfigError: it is of a training with other settings, or of another model.
    """
    found = _checkpoints(directory)
    if not found:
        return State()
    with safe_open(found[-1], framework="pt") as stored:
        metadata = stored.metadata()
        tensors: dict[str, Tensor] = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    if metadata["config"] != settings:
        raise ConfigError(
            f"{directory}: holds a training with other settings; give another one or remove it"
        )
    missing = [name for name in named if f"weight.{name}" not in tensors]
    if missing:
        raise ConfigError(
            f"{found[-1]}: lacks {missing[0]}; it belongs to another model, remove it"
        )
    put(named, {name: tensors[f"weight.{name}"] for name in named})
    for name, parameter in named.items():
        kept = dict(_parts(tensors, name))
        if kept:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device)
                for key, value in kept.items()
            }
    return State(
        int(metadata["step"]),
        float(metadata["seconds"]),
        _of_kind("ema", tensors, named),
        _best(metadata, _of_kind("best", tensors, named)),
    )


def _of_kind(
    kind: str, tensors: Mapping[str, Tensor], named: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    return {
        name: tensors[f"{kind}.{name}"].to(parameter.device).clone()
        for name, parameter in named.items()
        if f"{kind}.{name}" in tensors
    }


def _best(metadata: Mapping[str, str], weights: dict[str, Tensor]) -> Best:
    if "best_score" not in metadata:
        return Best()
    return Best(
        float(metadata["best_score"]),
        int(metadata["best_step"]),
        int(metadata["waited"]),
        weights,
    )


def _parts(tensors: Mapping[str, Tensor], name: str) -> Iterator[tuple[str, Tensor]]:
    """The optimizer's values of one parameter, by their own name."""
    for key in ("step", "exp_avg", "exp_avg_sq"):
        value = tensors.get(f"optimizer.{key}.{name}")
        if value is not None:
            yield key, value.clone()
