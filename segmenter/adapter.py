"""Adapters: inject, save, load, switch; the base can always come back. The only importer of peft.

An adapter folder holds `adapter.safetensors` and `adapter.json`. Knows nothing of training data.
"""

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from casebook.documents import Document, read_document, write_bytes, write_document
from casebook.errors import AngioloopError, ConfigError, ModelError, TrainingError
from segmenter import tuning
from segmenter.fit import LoraConfig
from segmenter.tuning import Strategy
from segmenter.upstream import import_upstream

_modules = import_upstream(("peft", "peft.tuners.tuners_utils", "peft.utils.other"))
_peft: Any = _modules["peft"]
_Layer: Any = _modules["peft.tuners.tuners_utils"].BaseTunerLayer
_Whole: Any = _modules["peft.utils.other"].AuxiliaryTrainingWrapper

WEIGHTS, SETTINGS = "adapter.safetensors", "adapter.json"

TARGETS = {
    "vit": r".*vision_backbone\.trunk\.blocks\.\d+\.attn\.(qkv|proj)",
    "vit_mlp": r".*vision_backbone\.trunk\.blocks\.\d+\.mlp\.fc[12]",
    "mask_decoder": r".*sam_mask_decoder\.transformer\..*\.(q_proj|k_proj|v_proj|out_proj)",
    "detector": r".*image\.transformer\.(encoder|decoder)\.layers\.\d+\.linear[12]",
    "text": r".*language_backbone\.encoder\.transformer\.resblocks\.\d+\.mlp\.c_(fc|proj)",
}
"""Groups of layers that get low-rank updates.

Plain names such as "proj" would also hit an Identity, and `out_proj` of nn.MultiheadAttention takes
an update that is never called: no gradient and no error.
"""

WHOLE = {
    "neck": ("sam2_convs.0", "sam2_convs.1", "sam2_convs.2"),
    "concept_neck": (
        "vision_backbone.convs.0",
        "vision_backbone.convs.1",
        "vision_backbone.convs.2",
    ),
    # output_upscaling is unpacked by the decoder: its parts must be named one by one.
    "mask_heads": (
        "sam_mask_decoder.output_upscaling.0",
        "sam_mask_decoder.output_upscaling.1",
        "sam_mask_decoder.output_upscaling.3",
        "sam_mask_decoder.conv_s0",
        "sam_mask_decoder.conv_s1",
        "sam_mask_decoder.output_hypernetworks_mlps.0",
        "sam_mask_decoder.iou_prediction_head",
    ),
    "multimask_heads": (
        "sam_mask_decoder.output_hypernetworks_mlps.1",
        "sam_mask_decoder.output_hypernetworks_mlps.2",
        "sam_mask_decoder.output_hypernetworks_mlps.3",
    ),
    "concept_heads": (
        "dot_prod_scoring",
        "transformer.decoder.bbox_embed",
        "transformer.decoder.presence_token_head",
        "segmentation_head.cross_attend_prompt",
        "segmentation_head.cross_attn_norm",
        "segmentation_head.pixel_decoder.conv_layers.0",
        "segmentation_head.pixel_decoder.conv_layers.1",
        "segmentation_head.pixel_decoder.norms.0",
        "segmentation_head.pixel_decoder.norms.1",
        "segmentation_head.semantic_seg_head",
        "segmentation_head.instance_seg_head",
        "segmentation_head.mask_predictor",
        "language_backbone.resizer",
    ),
    # Where image and words meet: which word is heard where, and what lies around a place.
    "fusion": (
        "image.transformer.encoder.layers.*.self_attn",
        "image.transformer.encoder.layers.*.cross_attn_image",
    ),
}
"""Groups of small modules that are trained whole; a model a few MB in size needs them. A star is
the number of any layer."""


class AdapterSettings(Document):
    """What is needed to attach an adapter's weights again."""

    base_sha256: str | None = None
    """Hash of the base's weights it was trained on."""
    rank: int = Field(gt=0)
    alpha: int = Field(gt=0)
    dropout: float
    targets: tuple[str, ...]
    whole: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    strategy: Strategy = "lora"
    """`lora`, or which of the base's own weights the file holds."""
    zoom: bool = False
    """Whether it was trained, and answers, with a second look in a smaller window."""
    view_in_text: bool = False
    """Whether concepts were learnt, and are asked for, with the view's angles in words."""
    multimask: bool = False
    """Whether it was trained to answer one click by the best of three masks."""
    tile: float | None = None
    """The share of an image's longer side in which concepts were learnt, and are looked for."""

    @property
    def lora(self) -> LoraConfig:
        """The same as settings of a training."""
        return LoraConfig(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=self.targets,
            whole=self.whole,
            layers=self.layers,
        )


def _known(names: Iterable[str], groups: dict[str, Any], what: str) -> None:
    wrong = [name for name in names if name not in groups]
    if wrong:
        raise ConfigError(f"{what} {', '.join(wrong)} unknown; valid are {', '.join(groups)}")


def inject(model: nn.Module, lora: LoraConfig, name: str) -> None:
    """Attach a fresh adapter that changes nothing yet, and make it the active, trainable one.

    Raises:
        ConfigError: a group is unknown or matches nothing in this model.
    """
    _known(lora.targets, TARGETS, "LoRA targets")
    _known(lora.whole, WHOLE, "modules trained whole")
    if not lora.targets and not lora.layers:
        raise ConfigError(f"lora.targets is empty; choose from {', '.join(TARGETS)}")
    pattern = "|".join(
        f"(?:{expression})" for expression in (*(TARGETS[g] for g in lora.targets), *lora.layers)
    )
    names = [path for path, _ in model.named_modules()]
    whole: list[str] = []
    for path in (path for group in lora.whole for path in WHOLE[group]):
        shape = re.compile(r"(?:.*\.)?" + re.escape(path).replace(r"\*", r"\d+"))
        if not any(shape.fullmatch(known) for known in names):
            raise ConfigError(
                f"{path} is not part of this model; leave its group out of lora.whole"
            )
        starred = [known for known in names if shape.fullmatch(known)]
        whole += starred if "*" in path else [path]
    config = _peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=pattern,
        modules_to_save=whole or None,
    )
    with warnings.catch_warnings():
        # peft warns of every second adapter; switching between two is what we are here for.
        warnings.simplefilter("ignore")
        try:
            _peft.inject_adapter_in_model(config, model, adapter_name=name)
        except ValueError as problem:
            chosen = (*lora.targets, *lora.layers)
            raise ConfigError(f"lora.targets {chosen} match nothing: {problem}") from None
    activate(model, name)


def begin(model: nn.Module, lora: LoraConfig, strategy: Strategy, name: str) -> None:
    """Make a model ready to train a fresh adapter by a strategy.

    Raises:
        ConfigError: a group or the strategy is unknown or matches nothing in this model.
    """
    if strategy == "lora":
        inject(model, lora, name)
    else:
        tuning.free(model, strategy)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require a gradient, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def require_gradients(model: nn.Module) -> None:
    """Check, after one backward pass of every path trained, that no trained weight was left out.

    Raises:
        TrainingError: a trained weight got no gradient: it would be saved untrained.
    """
    idle = [name for name, p in trainable(model).items() if p.grad is None]
    if idle:
        raise TrainingError(
            f"{len(idle)} trained weights get no gradient, first {idle[0]}; take their group out "
            "of lora.targets and lora.whole, or train the path that uses them (concept_every)"
        )


def _adapter_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, (_Layer, _Whole))]


def activate(model: nn.Module, name: str | None) -> None:
    """Use one adapter, or none."""
    tuning.use(model, name)
    for layer in _adapter_layers(model):
        # A module kept whole by another adapter is the base's for this one.
        known = name is not None and not (
            isinstance(layer, _Whole) and name not in layer.modules_to_save
        )
        layer.enable_adapters(enabled=known)
        if known:
            layer.set_adapter(name)


def remove(model: nn.Module, name: str) -> None:
    """Forget an adapter; what is active afterwards has to be set again if it was this one."""
    tuning.forget(model, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in _adapter_layers(model):
            if not isinstance(layer, _Whole):
                layer.delete_adapter(name)
            elif name in layer.modules_to_save:
                # Told of none it would answer with the base's, whichever is active
                # (peft 0.21.2, utils/other.py: ModulesToSaveWrapper.delete_adapter).
                layer.delete_adapter(name, [one for one in layer.active_adapters if one != name])
    getattr(model, "peft_config", {}).pop(name, None)


def adapter_state(model: nn.Module, name: str) -> dict[str, Tensor]:
    """An adapter's weights under names that do not depend on its own."""
    state: dict[str, Tensor] = _peft.get_peft_model_state_dict(model, adapter_name=name)
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}


def save_adapter(
    model: nn.Module,
    name: str,
    lora: LoraConfig,
    folder: Path,
    *,
    base_sha256: str | None = None,
    strategy: Strategy = "lora",
    zoom: bool = False,
    view_in_text: bool = False,
    multimask: bool = False,
    tile: float | None = None,
) -> None:
    """Write an adapter's weights and settings, each atomically.

    Raises:
        TrainingError: a weight is not finite.
    """
    state = adapter_state(model, name) if strategy == "lora" else tuning.trained(model)
    _require_finite(state, TrainingError, "the trained adapter")
    write_bytes(folder / WEIGHTS, save(state))
    settings = AdapterSettings(
        base_sha256=base_sha256,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        whole=lora.whole,
        layers=lora.layers,
        strategy=strategy,
        zoom=zoom,
        view_in_text=view_in_text,
        multimask=multimask,
        tile=tile,
    )
    write_document(folder / SETTINGS, settings)


def _require_finite(state: dict[str, Tensor], error: type[AngioloopError], where: str) -> None:
    broken = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if broken:
        raise error(f"{where}: {broken[0]} holds NaN or infinity; train it again")


def read_settings(folder: Path) -> AdapterSettings:
    """The settings of an adapter folder."""
    return read_document(folder / SETTINGS, AdapterSettings)


def load_adapter(
    model: nn.Module, folder: Path, name: str, *, base_sha256: str | None = None
) -> AdapterSettings:
    """Attach an adapter from its folder and make it the active one; not trainable.

    Raises:
        ModelError: a file is missing or damaged, a weight is not finite or missing, or it was
            trained on another base. The model is left without it.
    """
    try:
        settings = read_settings(folder)
    except AngioloopError as problem:
        raise ModelError(str(problem)) from None
    if None not in (base_sha256, settings.base_sha256) and base_sha256 != settings.base_sha256:
        raise ModelError(f"{folder}: was trained on another base; give the base it belongs to")
    try:
        # Read, not mapped: a file cut short while it is in use would end the process.
        state = load((folder / WEIGHTS).read_bytes())
    except (OSError, SafetensorError) as problem:
        raise ModelError(f"{folder / WEIGHTS}: cannot be read ({problem}); restore it") from None
    _require_finite(state, ModelError, str(folder / WEIGHTS))
    if settings.strategy != "lora":
        _hold(model, folder, name, state)
        return settings
    inject(model, settings.lora, name)
    expected = adapter_state(model, name)
    wrong = sorted(
        key
        for key in expected.keys() | state.keys()
        if key not in state or key not in expected or state[key].shape != expected[key].shape
    )
    if wrong:
        remove(model, name)
        raise ModelError(
            f"{folder}: {wrong[0]} does not fit this model; it belongs to another base"
        )
    _peft.set_peft_model_state_dict(model, state, adapter_name=name)
    for parameter in trainable(model).values():
        parameter.requires_grad_(False)
    return settings


def _hold(model: nn.Module, folder: Path, name: str, state: dict[str, Tensor]) -> None:
    """Put weights that an adapter holds whole into the model."""
    wrong = tuning.misfit(model, state)
    if wrong is not None or not state:
        raise ModelError(
            f"{folder}: {wrong or 'its weights'} do not fit this model; it belongs to another base"
        )
    tuning.hold(model, name, state)
    activate(model, name)
