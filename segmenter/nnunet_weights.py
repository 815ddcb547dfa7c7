"""nnU-Net v2 on disk: what it trained becomes a folder that can be read without unpickling.

A folder holds nnU-Net's own `plans.json` and `dataset.json`, the weights of one or several folds
and `settings.json`. Training is nnU-Net's: `nnUNetv2_plan_and_preprocess -d ID -c 2d` and
`nnUNetv2_train ID 2d 0` on what `casebook export nnunet` wrote; then
``python -m segmenter.nnunet_weights --trained RESULTS/DATASET/nnUNetTrainer__nnUNetPlans__2d``. The
only importer of nnunetv2.
"""

import contextlib
import importlib
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from casebook.documents import Document, read_document, write_bytes, write_document
from casebook.errors import AngioloopError, ConfigError, ModelError
from segmenter.nnunet import Nnunet
from segmenter.weights import read_released

log = logging.getLogger(__name__)

PLANS, DATASET, SETTINGS = "plans.json", "dataset.json", "settings.json"
READER = "NaturalImage2DIO"
"""nnU-Net's reader of pictures: what it trains on is what a frame's pixels are."""
_CLASSES = ("dynamic_network_architectures.architectures.", "torch.nn.")
"""Where a plan may take classes from: a plan names them, and anything named would be run."""
CONVERT = "python -m segmenter.nnunet_weights --trained FOLDER --out FOLDER"


class NnunetSettings(Document):
    """What nnU-Net keeps in its checkpoints beside the weights."""

    configuration: str = "2d"
    folds: tuple[str, ...] = Field(min_length=1)
    mirroring_axes: tuple[int, ...] = ()
    """Axes that may be mirrored at inference; none here means none."""


def weights_of(fold: str) -> str:
    """The file of a fold's weights."""
    return f"fold_{fold}.safetensors"


def open_nnunet(folder: Path) -> Nnunet:
    """The model of a folder that the command of this module wrote.

    Raises:
        ConfigError: nnunetv2 is not installed.
        ModelError: a file is missing or damaged, a weight is missing, misshapen or not finite, or
            the plans are of another kind of model.
    """
    if not (folder / SETTINGS).is_file():
        raise ModelError(f"{folder}: holds no nnU-Net ({SETTINGS} is missing); run `{CONVERT}`")
    try:
        settings = read_document(folder / SETTINGS, NnunetSettings)
    except AngioloopError as problem:
        raise ModelError(str(problem)) from None
    plans, dataset = _read(folder / PLANS), _read(folder / DATASET)
    upstream = _upstream()
    try:
        network, parts = _network(upstream, plans, dataset, settings.configuration, folder)
    except (KeyError, TypeError, ValueError, AttributeError, ImportError, RuntimeError) as problem:
        raise ModelError(
            f"{folder}: the plans cannot be built ({problem!r}); train again"
        ) from None
    states = [_state(folder / weights_of(fold), network) for fold in settings.folds]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with contextlib.redirect_stdout(sys.stderr):
        predictor = upstream.predictor.nnUNetPredictor(device=device, allow_tqdm=False)
    predictor.manual_initialization(
        network, *parts, states, dataset, "nnUNetTrainer", settings.mirroring_axes or None
    )
    labels = {name: code for name, code in dataset["labels"].items() if code != 0}
    return Nnunet(predictor, folder.name, labels)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ModelError(f"{path}: cannot be read ({problem}); run `{CONVERT}`") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: is not nnU-Net's; run `{CONVERT}`")
    return found


class _Upstream:
    """The modules of nnunetv2; it talks to stdout while it is imported."""

    def __init__(self) -> None:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inference = "nnunetv2.inference.predict_from_raw_data"
            self.predictor: Any = importlib.import_module(inference)
            plans = "nnunetv2.utilities.plans_handling.plans_handler"
            self.plans: Any = importlib.import_module(plans)
            networks = "nnunetv2.utilities.get_network_from_plans"
            self.networks: Any = importlib.import_module(networks)


def _upstream() -> _Upstream:
    try:
        return _Upstream()
    except ImportError as problem:
        raise ConfigError(
            f"nnunetv2 is not installed ({problem}); run `pip install 'angioloop[nnunet]'`"
        ) from None


def _network(
    upstream: _Upstream,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    configuration: str,
    folder: Path,
) -> tuple[torch.nn.Module, tuple[Any, Any]]:
    """The network of the plans, with random weights, and what nnU-Net knows of them.

    Raises:
        ModelError: it is a model of volumes, of coloured pictures, of overlapping labels, or of
            pictures that are not ours.
    """
    reader, channels = plans["image_reader_writer"], dataset["channel_names"]
    codes = dataset["labels"].values()
    if reader != READER or len(channels) != 1:
        raise ModelError(
            f"{folder}: was trained on {len(channels)} channels of {reader}, expected one of "
            f"{READER}; train it on grey pictures, as frames are"
        )
    if not all(isinstance(code, int) for code in codes) or sorted(codes) != [*range(len(codes))]:
        raise ModelError(
            f"{folder}: its labels are regions or leave numbers out; train it on labels numbered "
            "from 0, the background, upwards"
        )
    manager = upstream.plans.PlansManager(plans)
    if configuration not in manager.available_configurations:
        raise ModelError(f"{folder}: the plans have no configuration {configuration}; train 2d")
    chosen = manager.get_configuration(configuration)
    if len(chosen.patch_size) != 2:
        raise ModelError(f"{folder}: {configuration} is for volumes; train and convert 2d")
    needed, given = chosen.network_arch_init_kwargs_req_import, chosen.network_arch_init_kwargs
    classes = [chosen.network_arch_class_name, *(given[name] for name in needed)]
    for name in classes:
        if name is not None and not name.startswith(_CLASSES):
            raise ModelError(
                f"{folder}: its plans name {name}, expected classes of {' or '.join(_CLASSES)}; "
                "do not use plans of unknown origin"
            )
    network: torch.nn.Module = upstream.networks.get_network_from_plans(
        chosen.network_arch_class_name,
        given,
        needed,
        len(channels),
        len(codes),
        deep_supervision=False,
    )
    return network.eval(), (manager, chosen)


def _own(network: torch.nn.Module) -> dict[str, Tensor]:
    """Each weight once: nnU-Net's decoder holds the encoder again, under other names."""
    buffers = ((name, value) for name, value in network.named_buffers() if value is not None)
    return {name: value.detach() for name, value in (*network.named_parameters(), *buffers)}


def _state(path: Path, network: torch.nn.Module) -> dict[str, Tensor]:
    """All that nnU-Net loads of a fold, under all its names.

    Raises:
        ModelError: it cannot be read, does not fit, or is not finite.
    """
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{path}: cannot be read ({problem}); run `{CONVERT}`") from None
    _require_fit(stored, _own(network), path)
    network.load_state_dict(stored, strict=False)
    return {name: value.clone() for name, value in network.state_dict().items()}


def _require_fit(state: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    wrong = sorted(
        name
        for name in expected.keys() | state.keys()
        if name not in state or name not in expected or state[name].shape != expected[name].shape
    )
    if wrong:
        raise ModelError(f"{path}: {wrong[0]} does not fit the plans beside it; convert it again")
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: {name} holds NaN or infinity; train it again")


def convert(trained: Path, out: Path, *, checkpoint: str = "checkpoint_final.pth") -> None:
    """Turn a folder of nnU-Net's results, all finished folds of it, into one `open_nnunet` reads.

    nnU-Net's checkpoints are read once, under torch's restricted reader with numpy's numbers
    allowed: nothing else in them is built.

    Raises:
        ConfigError: nnunetv2 is not installed.
        ModelError: the folder holds no finished fold, or what it holds does not fit together.
    """
    found = sorted(trained.glob(f"fold_*/{checkpoint}"))
    if not found:
        raise ModelError(
            f"{trained}: holds no fold_*/{checkpoint}; finish `nnUNetv2_train ID 2d FOLD`, or give "
            "another --checkpoint"
        )
    plans, dataset = _read(trained / PLANS), _read(trained / DATASET)
    upstream, payloads, settings = _upstream(), {}, None
    for path in found:
        kept = _read_checkpoint(path)
        told = NnunetSettings(
            configuration=kept["init_args"]["configuration"],
            folds=tuple(each.parent.name.removeprefix("fold_") for each in found),
            mirroring_axes=tuple(kept.get("inference_allowed_mirroring_axes") or ()),
        )
        if settings is not None and told != settings:
            raise ModelError(f"{trained}: its folds are of different trainings; train them alike")
        settings = told
        network, _ = _network(upstream, plans, dataset, told.configuration, trained)
        _require_fit(kept["network_weights"], network.state_dict(), path)
        network.load_state_dict(kept["network_weights"])
        weights = {name: value.contiguous() for name, value in _own(network).items()}
        payloads[weights_of(path.parent.name.removeprefix("fold_"))] = save(weights)
    assert settings is not None  # noqa: S101 - there was a fold
    for name in (PLANS, DATASET):
        write_bytes(out / name, (trained / name).read_bytes())
    for name, payload in payloads.items():
        write_bytes(out / name, payload)
    write_document(out / SETTINGS, settings)


def _read_checkpoint(path: Path) -> dict[str, Any]:
    numbers = [
        np.dtype,
        np.dtypes.Float64DType,
        np.dtypes.Float32DType,
        np.dtypes.Int64DType,
        importlib.import_module("numpy._core.multiarray").scalar,
    ]
    try:
        found = read_released(path, numbers)
        for key in ("network_weights", "init_args"):
            found[key].keys()
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as problem:
        line = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        raise ModelError(
            f"{path}: is not a checkpoint of nnU-Net's ({line}); train again"
        ) from None
    return dict(found)


@click.command(
    epilog="Example: python -m segmenter.nnunet_weights --trained "
    "nnUNet_results/Dataset501_CT/nnUNetTrainer__nnUNetPlans__2d"
)
@click.option(
    "--trained",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="What nnUNetv2_train wrote: plans.json, dataset.json and fold_*.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("workspace/models/nnunet"),
    show_default=True,
    help="Folder of the model; its name is the id answers carry.",
)
@click.option("--checkpoint", default="checkpoint_final.pth", show_default=True)
def main(trained: Path, out: Path, checkpoint: str) -> None:
    """Take over what nnU-Net v2 trained, checking every weight."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    try:
        convert(trained, out, checkpoint=checkpoint)
        open_nnunet(out)
    except AngioloopError as problem:
        click.echo(f"Error: {problem}", err=True)
        raise SystemExit(problem.exit_code) from None
    log.info("%s holds the nnU-Net of %s", out, trained)


if __name__ == "__main__":
    main()
