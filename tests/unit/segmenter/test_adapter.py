from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from casebook.errors import ConfigError, ModelError, TrainingError
from segmenter import adapter as adapters
from segmenter.fit import LoraConfig
from segmenter.sam3 import Sam3

LORA = LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("vit", "mask_decoder"))
WHOLE = LoraConfig(
    rank=2, alpha=4, dropout=0.0, targets=("vit", "detector"), whole=tuple(adapters.WHOLE)
)


def answer(model: Sam3) -> torch.Tensor:
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    points, labels = torch.tensor([[[5.0, 5.0], [40.0, 30.0]]]), torch.tensor([[2, 3]])
    model.eval()
    with torch.no_grad():
        low, _ = model.decode(model.encode(pixels), points, labels)
    return low


def shaken(model: Sam3, lora: LoraConfig, name: str, seed: int = 0) -> None:
    """An adapter whose weights are random, as after training."""
    adapters.inject(model, lora, name)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapters.trainable(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("lora", [LORA, WHOLE], ids=["low rank", "with whole modules"])
def test_a_fresh_adapter_changes_nothing(small: Sam3, lora: LoraConfig) -> None:
    before = answer(small)
    adapters.inject(small, lora, "new")
    assert torch.allclose(answer(small), before, atol=1e-6)


@pytest.mark.parametrize("lora", [LORA, WHOLE], ids=["low rank", "with whole modules"])
def test_a_saved_adapter_answers_the_same_when_loaded(
    small: Sam3, lora: LoraConfig, tmp_path: Path
) -> None:
    base = answer(small)
    shaken(small, lora, "one")
    trained = answer(small)
    assert not torch.allclose(trained, base, atol=1e-3)
    adapters.save_adapter(small, "one", lora, tmp_path, base_sha256="ab")
    adapters.activate(small, None)
    assert torch.allclose(answer(small), base, atol=1e-6)
    settings = adapters.load_adapter(small, tmp_path, "two", base_sha256="ab")
    assert torch.allclose(answer(small), trained, atol=1e-5)
    assert settings.whole == lora.whole
    assert not any(p.requires_grad for p in small.parameters())


def test_two_adapters_are_switched_and_one_forgotten(small: Sam3) -> None:
    base = answer(small)
    shaken(small, LORA, "one", seed=1)
    one = answer(small)
    shaken(small, WHOLE, "two", seed=2)
    two = answer(small)
    adapters.activate(small, "one")
    assert torch.allclose(answer(small), one, atol=1e-5)
    adapters.activate(small, "two")
    adapters.remove(small, "one")
    assert torch.allclose(answer(small), two, atol=1e-5)
    assert not any(".one." in name for name, _ in small.named_parameters())
    adapters.activate(small, None)
    assert torch.allclose(answer(small), base, atol=1e-6)


def test_an_adapter_with_nan_is_neither_saved_nor_loaded(small: Sam3, tmp_path: Path) -> None:
    shaken(small, LORA, "one")
    adapters.save_adapter(small, "one", LORA, tmp_path)
    state = load_file(tmp_path / adapters.WEIGHTS)
    key = next(iter(state))
    state[key][0] = float("nan")
    save_file(state, tmp_path / adapters.WEIGHTS)
    with pytest.raises(ModelError, match="NaN"):
        adapters.load_adapter(small, tmp_path, "two")
    with torch.no_grad():
        next(iter(adapters.trainable(small).values())).fill_(float("inf"))
    with pytest.raises(TrainingError, match="NaN or infinity"):
        adapters.save_adapter(small, "one", LORA, tmp_path)


def test_damaged_missing_and_foreign_adapters_are_refused(small: Sam3, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"adapter\.json"):
        adapters.load_adapter(small, tmp_path, "one")
    shaken(small, LORA, "one")
    adapters.save_adapter(small, "one", LORA, tmp_path, base_sha256="ab")
    with pytest.raises(ModelError, match="another base"):
        adapters.load_adapter(small, tmp_path, "two", base_sha256="cd")
    state = load_file(tmp_path / adapters.WEIGHTS)
    state.pop(next(iter(state)))
    save_file(state, tmp_path / adapters.WEIGHTS)
    with pytest.raises(ModelError, match="does not fit"):
        adapters.load_adapter(small, tmp_path, "two")
    (tmp_path / adapters.WEIGHTS).write_bytes(b"broken")
    with pytest.raises(ModelError, match="cannot be read"):
        adapters.load_adapter(small, tmp_path, "three")


def test_unknown_groups_are_named_with_the_valid_ones(small: Sam3) -> None:
    with pytest.raises(ConfigError, match="valid are vit"):
        adapters.inject(small, LoraConfig(targets=("vision",)), "one")
    with pytest.raises(ConfigError, match="valid are neck"):
        adapters.inject(small, LoraConfig(whole=("head",)), "one")
    with pytest.raises(ConfigError, match="empty"):
        adapters.inject(small, LoraConfig(targets=()), "one")


def test_a_target_that_gets_no_gradient_is_refused(small: Sam3) -> None:
    adapters.inject(small, LoraConfig(rank=2, targets=("vit", "detector")), "one")
    pixels, points = torch.randn(1, 3, 64, 64), torch.tensor([[[5.0, 5.0]]])
    low, _ = small.decode(small.encode(pixels), points, torch.tensor([[1]]))
    low.sum().backward()
    with pytest.raises(TrainingError, match="get no gradient"):
        adapters.require_gradients(small)
