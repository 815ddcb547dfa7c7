from pathlib import Path

import torch
from click.testing import CliRunner

from casebook.documents import read_document
from casebook.registry import ModelCard
from segmenter.fit import TrainConfig
from segmenter.sam3 import SMALLEST
from segmenter.tiny_base import HELD_OUT_SEED, held_out, main, pretrain, shapes_batch
from segmenter.weights import base_sha256, load_base

CONFIG = TrainConfig(
    steps=4, lr=1e-3, batch=4, concept_every=2, checkpoint_every=2, log_every=1, ema=0.5
)


def test_pretraining_writes_a_base_with_figures_and_origin(tmp_path: Path) -> None:
    card = pretrain(CONFIG, SMALLEST, directory=tmp_path / "run", out=tmp_path / "base")
    assert read_document(tmp_path / "base" / "card.json", ModelCard) == card
    assert card.files["model.safetensors"] == base_sha256(tmp_path / "base")
    assert 0 <= card.figures["box_iou"] <= 1
    assert 0 <= card.figures["click_iou"] <= 1
    assert card.data["steps"] == 4
    assert "SAM License" in card.licence
    assert load_base(tmp_path / "base").config == SMALLEST


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    for is_concept in (True, False):
        one, other = (shapes_batch(1, 7, CONFIG, SMALLEST, is_concept=is_concept) for _ in range(2))
        assert torch.equal(one.pixels, other.pixels)
        assert bool(one.queries) == is_concept
        assert not torch.equal(
            one.pixels, shapes_batch(1, 8, CONFIG, SMALLEST, is_concept=is_concept).pixels
        )


def test_targets_lie_inside_their_windows() -> None:
    batch = shapes_batch(0, 0, CONFIG, SMALLEST, is_concept=False)
    assert batch.truth.shape == (4, 64, 64)
    assert batch.truth.flatten(1).any(dim=1).all()


def test_held_out_pictures_are_none_of_the_first_training_steps() -> None:
    config = CONFIG.model_copy(update={"batch": 32})
    held = shapes_batch(HELD_OUT_SEED, 0, config, SMALLEST, is_concept=False).pixels
    trained = shapes_batch(0, 0, config, SMALLEST, is_concept=False).pixels
    assert not any(torch.equal(one, other) for one in held for other in trained)


def test_held_out_figures_repeat(base: Path) -> None:
    model = load_base(base)
    assert held_out(model, pictures=32) == held_out(model, pictures=32)


def test_the_command_says_how_it_is_used() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "Example: python -m segmenter.tiny_base" in result.output
