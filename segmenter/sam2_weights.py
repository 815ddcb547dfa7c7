"""SAM 2 on disk: a folder in transformers' format, opened strictly, and how it is fetched.

``python -m segmenter.sam2_weights --out workspace/models/sam2``. The only importer of transformers.
"""

import json
import logging
from pathlib import Path

import click
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError

from casebook.errors import AccessError, AngioloopError, ConfigError, ModelError, UnreachableError
from segmenter.sam2 import Sam2
from segmenter.upstream import import_upstream

log = logging.getLogger(__name__)

REPOSITORY = "facebook/sam2.1-hiera-tiny"
"""Released under Apache-2.0."""
SIZES, WEIGHTS = "config.json", "model.safetensors"
KIND = "sam2_video"
"""What transformers calls a SAM 2 with its memory."""
FETCH = "python -m segmenter.sam2_weights --out FOLDER"


def open_sam2(folder: Path) -> Sam2:
    """The model in a folder of transformers' format (`config.json`, `model.safetensors`).

    Raises:
        ConfigError: transformers is not installed.
        ModelError: the folder has none, or its weights are damaged, not finite or of another model.
    """
    kind = _kind_of(folder)
    if kind != KIND:
        raise ModelError(
            f"{folder}: holds a {kind!r}, expected {KIND!r}, a SAM 2 with its memory; run `{FETCH}`"
        )
    try:
        transformers = import_upstream(("transformers", "torchvision"))["transformers"]
    except ImportError:
        raise ConfigError(
            "transformers is not installed; run `pip install 'angioloop[sam2]'`"
        ) from None
    transformers.logging.disable_progress_bar()
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # what is missing is told by ourselves
    try:
        model, told = transformers.Sam2VideoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as problem:
        line = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise ModelError(f"{folder}: cannot be loaded ({line}); run `{FETCH}`") from None
    finally:
        transformers.logging.set_verbosity(before)
    wrong = {what: sorted(told[f"{what}_keys"]) for what in ("missing", "unexpected")}
    if any(wrong.values()):
        first = (wrong["missing"] or wrong["unexpected"])[0]
        raise ModelError(
            f"{folder}: {len(wrong['missing'])} weights are missing and {len(wrong['unexpected'])} "
            f"unknown, first {first}; it is of another model. Run `{FETCH}`"
        )
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{folder}: {name} holds NaN or infinity; restore it")
    model.float().to("cuda" if torch.cuda.is_available() else "cpu")
    return Sam2(model, folder.name, transformers)


def _kind_of(folder: Path) -> str:
    """What transformers calls the model of a folder."""
    path = folder / SIZES
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["model_type"]
    except OSError:
        raise ModelError(f"{folder}: holds no SAM 2 ({SIZES} is missing); run `{FETCH}`") from None
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{path}: is not a model's configuration; run `{FETCH}`") from None
    return str(kind)


def fetch(repository: str, out: Path) -> None:
    """Download a model of transformers' format into a folder; only its two files.

    Raises:
        AccessError: the hub refuses.
        UnreachableError: the hub cannot be reached.
    """
    try:
        snapshot_download(repository, local_dir=out, allow_patterns=[SIZES, WEIGHTS])
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as problem:
        if isinstance(problem, (GatedRepoError, HfHubHTTPError)):
            raise AccessError(
                f"the hub refuses {repository}; check its name, accept its licence on its page, "
                "then set HF_TOKEN or run `hf auth login`"
            ) from None
        raise UnreachableError(
            f"the hub cannot be reached, so {repository} was not downloaded; check the network, or "
            f"copy its {SIZES} and {WEIGHTS} to {out}"
        ) from None


@click.command(epilog="Example: python -m segmenter.sam2_weights --out workspace/models/sam2")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("workspace/models/sam2"),
    show_default=True,
    help="Folder of the model; its name is the id answers carry.",
)
@click.option(
    "--repository",
    default=REPOSITORY,
    show_default=True,
    help="A SAM 2 with its memory in transformers' format; read the licence on its page.",
)
def main(out: Path, repository: str) -> None:
    """Fetch a SAM 2 (the default one is under Apache-2.0) and check every weight."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        fetch(repository, out)
        open_sam2(out)
    except AngioloopError as problem:
        click.echo(f"Error: {problem}", err=True)
        raise SystemExit(problem.exit_code) from None
    log.info("%s holds %s", out, repository)


if __name__ == "__main__":
    main()
