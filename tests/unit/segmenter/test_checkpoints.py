"""Damaged checkpoints: the one before takes the place, or a sentence says what to delete."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from casebook.errors import ModelError
from segmenter.fit import FitResult, TrainConfig, fit

CONFIG = TrainConfig(lr=0.05, seed=3, checkpoint_every=4, warmup=0.1, ema=0.9)
OLDER, LAST = "step-00000004.safetensors", "step-00000008.safetensors"


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def train(module: nn.Module, directory: Path, steps: int = 12, stop_at: int = -1) -> FitResult:
    """Fits y = x0 - x1; stopped as if killed when it comes to a step."""

    def batch(step: int) -> Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        return torch.randn(8, 2, generator=torch.Generator().manual_seed(step))

    def loss(x: Tensor, _: torch.Generator) -> Mapping[str, Tensor]:
        return {"loss": (module(x)[:, 0] - (x[:, 0] - x[:, 1])).square().mean()}

    return fit(module, loss, batch, CONFIG, steps=steps, directory=directory)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    """The weights of a training nobody disturbed."""
    module = line()
    train(module, tmp_path_factory.mktemp("undisturbed"))
    return [value.detach() for value in module.parameters()]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A training killed after its second checkpoint."""
    with pytest.raises(KeyboardInterrupt):
        train(line(), tmp_path, stop_at=10)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [OLDER, LAST]
    return tmp_path


def cut(path: Path, share: float) -> None:
    payload = path.read_bytes()
    path.write_bytes(payload[: int(share * len(payload))])


def no_training(path: Path) -> None:
    save_file({"weight.weight": torch.zeros(1, 2)}, path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: cut(path, 0.0),
    "cut in the header": lambda path: cut(path, 0.1),
    "cut in the numbers": lambda path: cut(path, 0.9),
    "without its last byte": lambda path: cut(path, 0.9999),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "of something else": no_training,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    killed: Path,
    undisturbed: list[Tensor],
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    damage(killed / LAST)
    module = line()
    with caplog.at_level(logging.WARNING):
        result = train(module, killed)
    assert result.resumed_from == 4
    assert LAST in caplog.text
    assert "looking at the checkpoint before it" in caplog.text
    assert all(map(torch.equal, undisturbed, module.parameters()))


def test_no_bit_that_flips_changes_the_weights_a_training_ends_with(
    killed: Path, undisturbed: list[Tensor]
) -> None:
    whole, older = ((killed / name).read_bytes() for name in (LAST, OLDER))
    passed_over = 0
    for position in range(0, len(whole), 5):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        for path in killed.glob("step-*"):
            path.unlink()
        (killed / LAST).write_bytes(flipped)
        (killed / OLDER).write_bytes(older)
        module = line()
        passed_over += train(module, killed).resumed_from == 4
        assert all(map(torch.equal, undisturbed, module.parameters())), position
    # What a flip leaves in order, such as the name under which the hash is kept, counts as whole.
    assert passed_over > 0.95 * len(range(0, len(whole), 5))


def test_when_none_is_whole_the_message_says_what_to_delete(killed: Path) -> None:
    for name in (OLDER, LAST):
        cut(killed / name, 0.5)
    said = rf"{OLDER}: cannot be read .*of 2 checkpoints there none is whole.*Delete .*step-\*"
    with pytest.raises(ModelError, match=said):
        train(line(), killed)
    for path in killed.glob("step-*.safetensors"):
        path.unlink()
    assert train(line(), killed).resumed_from == 0


def test_a_damaged_checkpoint_of_a_later_step_goes_with_the_next_one_written(killed: Path) -> None:
    (killed / LAST).rename(killed / "step-00000011.safetensors")
    cut(killed / "step-00000011.safetensors", 0.5)
    with pytest.raises(KeyboardInterrupt):
        train(line(), killed, stop_at=9)
    assert sorted(path.name for path in killed.glob("step-*")) == [OLDER, LAST]


def test_a_checkpoint_of_before_they_carried_a_hash_is_gone_on_from(
    killed: Path, undisturbed: list[Tensor]
) -> None:
    with safe_open(killed / LAST, framework="pt") as stored:
        metadata = stored.metadata()
    assert len(metadata.pop("sha256")) == 64
    save_file(load_file(killed / LAST), killed / LAST, metadata)
    module = line()
    assert train(module, killed).resumed_from == 8
    assert all(map(torch.equal, undisturbed, module.parameters()))
