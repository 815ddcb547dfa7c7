"""Bases on disk: a folder with `model.safetensors` and `config.json`; the real weights' download.

``python -m segmenter.weights`` is what ``make weights`` runs.
"""

import gzip
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from casebook.documents import sha256_of, sha256_of_file, write_bytes
from casebook.errors import AccessError, AngioloopError, ModelError, UnreachableError
from segmenter.sam3 import REAL, Sam3, Sam3Config, build
from segmenter.upstream import shapes_only

log = logging.getLogger(__name__)

_serialization: Any = torch.serialization
_Refused: type[Exception] = _serialization.pickle.UnpicklingError
"""What torch's restricted reader raises where a file holds more than it may."""

REPOSITORY, CHECKPOINT = "facebook/sam3", "sam3.pt"
MERGES = ("openai/clip-vit-base-patch32", "merges.txt")
"""Where CLIP's vocabulary is open to all; MIT licence."""
_N_MERGES = 49_152 - 256 - 2
"""Of the lines of a vocabulary, those sam3 reads. Source: sam3 0.1.4, model/tokenizer_ve.py:142."""
_MERGES_SHA256 = "f61f2adf497e6f5357c347aeb4646fabe82f341e946de5bdec5d2858e41bef4a"
"""Of them, in the file open_clip_torch 3.3.0 carries."""
_TOKENS = "token_embedding.weight"
WEIGHTS, SIZES, VOCABULARY = "model.safetensors", "config.json", "bpe_simple_vocab_16e6.txt.gz"


def read_sizes(folder: Path) -> Sam3Config:
    """The sizes of the base in a folder.

    Raises:
        ModelError: there is none.
    """
    path = folder / SIZES
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        raise ModelError(
            f"{folder}: holds no base ({SIZES} is missing); run `make tiny-base` or `make weights`"
        ) from None
    try:
        return Sam3Config.model_validate_json(text)
    except ValueError as problem:
        raise ModelError(f"{path}: not a base's sizes: {problem}") from None


def load_base(folder: Path, *, matching: bool = False) -> Sam3:
    """A base with its weights, every one of them, in evaluation mode and frozen.

    Args:
        matching: Attach the matcher that training the concept path needs.

    Raises:
        ModelError: a file is missing or damaged, a weight is missing, too many, misshapen or not
            finite, or the vocabulary is not the one it was trained with.
    """
    sizes = read_sizes(folder)
    path = folder / WEIGHTS
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path}: cannot be read ({problem}); restore it") from None
    vocabulary = folder / VOCABULARY if (folder / VOCABULARY).is_file() else None
    if vocabulary is not None:
        read_vocabulary(vocabulary)  # texts cut into other tokens would be answered all the same
    model = build(sizes, vocabulary=vocabulary, matching=matching)
    # RoPE tables are complex, which safetensors cannot hold; they follow from the sizes.
    expected = {name: value for name, value in model.state_dict().items() if not value.is_complex()}
    _require_same(expected, stored, path)
    for name, value in stored.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: {name} holds NaN or infinity; restore it")
    model.load_state_dict({**model.state_dict(), **stored})
    return model.requires_grad_(requires_grad=False)


def _require_same(expected: dict[str, Tensor], stored: dict[str, Tensor], path: Path) -> None:
    missing = sorted(expected.keys() - stored.keys())
    extra = sorted(stored.keys() - expected.keys())
    if missing or extra:
        first = (missing or extra)[0]
        raise ModelError(
            f"{path}: {len(missing)} weights are missing and {len(extra)} unknown, first {first}; "
            "it was made with other sizes or another sam3"
        )
    for name, value in expected.items():
        if value.shape != stored[name].shape and name.endswith(_TOKENS):
            raise ModelError(
                f"{path}: knows {len(stored[name])} tokens, expected {len(value)}, as many as the "
                f"vocabulary beside it gives or bytes where there is none; put {VOCABULARY} there "
                "(`make weights` fetches it), or take it away from a base that reads bytes"
            )
        if value.shape != stored[name].shape:
            raise ModelError(
                f"{path}: {name} has shape {tuple(stored[name].shape)}, expected "
                f"{tuple(value.shape)}; it was made with other sizes"
            )


def save_base(model: Sam3, out: Path) -> dict[str, str]:
    """Write a base's weights (in half precision) and sizes, each atomically; gives their hashes."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
        if not value.is_complex()
    }
    payloads = {
        WEIGHTS: save(state),
        SIZES: model.config.model_dump_json(indent=1).encode(),
    }
    for name, payload in payloads.items():
        write_bytes(out / name, payload)
    return {name: sha256_of(payload) for name, payload in payloads.items()}


def base_sha256(folder: Path) -> str:
    """Hash of a base's weights, which adapters carry."""
    return sha256_of_file(folder / WEIGHTS)


def read_released(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """What a file of torch's holds, under its restricted reader: tensors and plain values alone.

    Args:
        allowed: Further classes and functions it may call; nothing else is.

    Raises:
        ModelError: it cannot be read, or holds anything else.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError) as problem:
        raise ModelError(f"{path}: cannot be read ({problem}); download it again") from None
    except _Refused:
        raise ModelError(
            f"{path}: holds more than weights and numbers; do not use files of unknown origin"
        ) from None


def convert(checkpoint: Path, out: Path, *, vocabulary: Path | None = None) -> None:
    """Turn the released checkpoint into a base folder, checking every weight.

    The release is a zip of tensors; this one conversion is the only place that reads it.

    Raises:
        ModelError: it is not the checkpoint of this model.
    """
    released = read_released(checkpoint)
    tensors: dict[str, Tensor] = released.get("model", released)
    renamed = {}
    for name, value in tensors.items():
        if name.startswith("detector."):
            renamed[f"image.{name.removeprefix('detector.')}"] = value
        elif name.startswith("tracker."):
            inner = name.removeprefix("tracker.")
            renamed[f"image.inst_interactive_predictor.model.{inner}"] = value
    with shapes_only():
        expected = build(REAL, vocabulary=vocabulary, matching=False).state_dict()
    wanted = {name: value for name, value in expected.items() if not value.is_complex()}
    kept = {name: renamed[name].contiguous() for name in wanted if name in renamed}
    _require_same(wanted, kept, checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / f".{WEIGHTS}.tmp"
    save_file(kept, temporary)
    temporary.replace(out / WEIGHTS)
    if vocabulary is not None:
        write_bytes(out / VOCABULARY, vocabulary.read_bytes())
    write_bytes(out / SIZES, REAL.model_dump_json(indent=1).encode())


def read_vocabulary(path: Path) -> bytes:
    """CLIP's vocabulary as sam3 reads it, whatever of it a file holds besides; compressed.

    Raises:
        ModelError: it is not that vocabulary; texts would be cut into other tokens.
    """
    try:
        raw = path.read_bytes()
        text = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
        lines = text.decode("utf-8").split("\n")
    except (OSError, EOFError, ValueError) as problem:
        raise ModelError(f"{path}: cannot be read ({problem}); download it again") from None
    merges = "\n".join(lines[1 : _N_MERGES + 1])
    if hashlib.sha256(merges.encode()).hexdigest() != _MERGES_SHA256:
        raise ModelError(
            f"{path}: is not CLIP's vocabulary; give {VOCABULARY} or the {MERGES[1]} of {MERGES[0]}"
        )
    return gzip.compress(f"#version: 0.2\n{merges}\n".encode(), mtime=0)


def download(out: Path) -> Path:
    """The released checkpoint, from the hub's cache or the hub itself.

    Raises:
        AccessError: the hub refuses; access has to be asked for.
        UnreachableError: the hub cannot be reached.
    """
    return _downloaded(REPOSITORY, CHECKPOINT, out, "--checkpoint")


def download_vocabulary(out: Path) -> Path:
    """CLIP's vocabulary, which the sam3 wheel lacks, from the hub.

    Raises:
        AccessError: the hub refuses.
        UnreachableError: the hub cannot be reached.
    """
    return _downloaded(*MERGES, out, "--vocabulary")


def _downloaded(repository: str, name: str, out: Path, option: str) -> Path:
    try:
        return Path(hf_hub_download(repository, name, local_dir=out))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as problem:
        if isinstance(problem, (GatedRepoError, HfHubHTTPError)):
            raise refused(repository) from None
        raise UnreachableError(
            f"the hub cannot be reached, so {repository} was not downloaded; check the network, or "
            f"copy {name} here and run with {option}"
        ) from None


def refused(repository: str = REPOSITORY) -> AccessError:
    """What is said when the hub does not hand out a file."""
    gated = (
        "its weights are gated. Accept the SAM License at" if repository == REPOSITORY else "see"
    )
    return AccessError(
        f"the hub refuses {repository}: {gated} https://huggingface.co/{repository}, then set "
        "HF_TOKEN or run `hf auth login`"
    )


@click.command(epilog="Example: python -m segmenter.weights --out workspace/models/sam3")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("workspace/models/sam3"),
    show_default=True,
    help="Folder of the base.",
)
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A sam3.pt that is here already.",
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"CLIP's vocabulary, if it is here already: {VOCABULARY} or {MERGES[1]}.",
)
def main(out: Path, checkpoint: Path | None, vocabulary: Path | None) -> None:
    """Download the real SAM 3 weights and make them a base."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        words = read_vocabulary(vocabulary or download_vocabulary(out))
        released = checkpoint or download(out)
        write_bytes(out / VOCABULARY, words)
        convert(released, out, vocabulary=out / VOCABULARY)
    except AngioloopError as problem:
        click.echo(f"Error: {problem}", err=True)
        raise SystemExit(problem.exit_code) from None
    log.info("%s holds the real SAM 3; use it with base: %s", out, out)


if __name__ == "__main__":
    main()
