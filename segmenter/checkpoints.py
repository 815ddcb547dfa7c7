"""Checkpoints of a training: everything that decides how it goes on, as plain tensors.

Each carries a hash of all it holds: of one that was damaged since, the one before takes the place.
Knows neither settings nor data; a text says which settings a checkpoint belongs to.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from casebook.documents import write_bytes
from casebook.errors import ConfigError, ModelError
from segmenter.stopping import Best, put

log = logging.getLogger(__name__)

_NEEDED = ("step", "seconds", "config")
_HASH = "sha256"


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
    """Write one checkpoint atomically and drop all but it and the one before.

    One of a later step is dropped too: it could not be read, else the training were further.
    """
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
    write_bytes(path, to_bytes(tensors, metadata | {_HASH: _digest(metadata, tensors)}))
    found = _checkpoints(directory)
    kept_here = found[: found.index(path) + 1][-2:]
    for old in found:
        if old not in kept_here:
            old.unlink()


def resume(
    directory: Path,
    named: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: str,
) -> State:
    """Go on from the last whole checkpoint of a directory; a fresh state where there is none.

    Raises:
        ConfigError: it is of a training with other settings, or of another model.
        ModelError: there are checkpoints, and all of them are damaged.
    """
    found = _checkpoints(directory)
    if not found:
        return State()
    path, metadata, tensors = _last_whole(found)
    if metadata["config"] != settings:
        raise ConfigError(
            f"{directory}: holds a training with other settings; give another one or remove it"
        )
    missing = [name for name in named if f"weight.{name}" not in tensors]
    if missing:
        raise ConfigError(f"{path}: lacks {missing[0]}; it belongs to another model, remove it")
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


def _last_whole(found: Sequence[Path]) -> tuple[Path, dict[str, str], dict[str, Tensor]]:
    """The last checkpoint that can be read, with what it holds.

    Raises:
        ModelError: none can.
    """
    for path in reversed(found):
        try:
            return path, *_read(path)
        except ModelError as problem:
            log.warning("%s; looking at the checkpoint before it", problem)
            last = problem
    raise ModelError(
        f"{last}; of {len(found)} checkpoints there none is whole, and one is needed to go on. "
        f"Delete {found[0].parent}/step-*.safetensors and run the same command again: it then "
        "trains from the start"
    )


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a checkpoint says and holds; one of before they carried a hash is taken as it is.

    Raises:
        ModelError: it is torn or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata: dict[str, str] = dict(stored.metadata() or {})
            tensors: dict[str, Tensor] = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path}: cannot be read ({problem})") from None
    told = metadata.pop(_HASH, None)
    lacks = [key for key in _NEEDED if key not in metadata]
    if lacks:
        raise ModelError(f"{path}: is no checkpoint, it lacks {lacks[0]!r}")
    if told is not None and told != _digest(metadata, tensors):
        raise ModelError(f"{path}: was changed since it was written, its hash is another")
    return metadata, tensors


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of all a checkpoint holds; safetensors itself checks no more than the header."""
    digest = hashlib.sha256()
    for key in sorted(metadata):
        digest.update(f"{key}={metadata[key]}\n".encode())
    for name in sorted(tensors):
        value = tensors[name].contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
