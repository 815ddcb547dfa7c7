from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from casebook.documents import read_document
from casebook.errors import ModelError
from casebook.registry import ModelCard
from segmenter.fit import TrainConfig
from segmenter.sam3 import SMALLEST, Sam3, build
from segmenter.tiny_base import pretrain as pretrain_first
from segmenter.tree_base import TILE, held_out_trees, main, pretrain, three_masks, trees_batch
from segmenter.trees import TREE_WORDS
from segmenter.weights import base_sha256, load_base

CONFIG = TrainConfig(
    steps=4, lr=1e-3, batch=4, concept_every=2, checkpoint_every=4, log_every=1, ema=0.5
)


@pytest.fixture
def started(tmp_path: Path) -> Path:
    """A base of the first half, in a folder of its own."""
    pretrain_first(
        CONFIG.model_copy(update={"steps": 1}),
        SMALLEST,
        directory=tmp_path / "first",
        out=tmp_path / "base",
    )
    return tmp_path / "base"


def test_going_on_writes_a_base_that_looks_in_tiles_and_doubts_with_its_origin(
    started: Path, tmp_path: Path
) -> None:
    before, first = base_sha256(started), read_document(started / "card.json", ModelCard)
    card = pretrain(CONFIG, directory=tmp_path / "run", out=started)
    assert read_document(started / "card.json", ModelCard) == card
    sizes = load_base(started).config
    assert (sizes.multimask, sizes.tile) == (True, TILE)
    assert sizes.model_copy(update={"multimask": False, "tile": None}) == SMALLEST
    assert base_sha256(started) == card.files["model.safetensors"] != before
    assert card.data["start_sha256"] == before
    assert card.data["start_steps"] == first.data["steps"] == 1
    assert card.data["steps"] == 4
    assert {"box_iou", "click_iou", "tree_dice", "named_dice"} < card.figures.keys()
    # A second run goes on from the same start, not from its own answer.
    again = pretrain(CONFIG, directory=tmp_path / "run", out=started)
    assert again.data == card.data
    assert again.files == card.files


def test_without_a_base_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no base"):
        pretrain(CONFIG, directory=tmp_path / "run", out=tmp_path / "none")


def test_three_masks_begin_where_the_single_one_is_and_apart_from_one_another(
    small: Sam3,
) -> None:
    three_masks(small, torch.Generator().manual_seed(0))
    features = small.encode(torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        masks, quality = small.candidates(
            features, torch.tensor([[[30.0, 30.0]]]), torch.tensor([[1]])
        )
    single, several = masks[0, 0], masks[0, 1:]
    spread = single.std()
    for mask in several:
        assert 0 < (mask - single).abs().mean() < spread
    assert not torch.allclose(several[0], several[1])
    # One token tells the overlap expected of all of them: the same until they learn.
    assert torch.allclose(quality, quality[:, :1].expand(-1, 4))


def test_a_batch_asks_for_trees_by_their_name_and_by_names_that_mean_nothing() -> None:
    taught, made_up, elsewhere = 0, 0, 0
    for step in range(6):
        batch = trees_batch(1, step, CONFIG, SMALLEST, is_concept=True)
        again = trees_batch(1, step, CONFIG, SMALLEST, is_concept=True)
        assert torch.equal(batch.pixels, again.pixels)
        for query in batch.queries:
            assert query.instances.shape[1:] == (64, 64)
            taught += query.concept in TREE_WORDS and len(query.instances) > 0
            known = query.concept in TREE_WORDS or query.concept.split()[-1] in LAST_WORDS
            made_up += not known and len(query.instances) > 0
            elsewhere += len(query.instances) == 0
    assert min(taught, made_up, elsewhere) > 0


LAST_WORDS = {"line", "branch", "narrowing", "blob", "ring", "polygon", "shape"}


def test_prompts_are_asked_in_windows_as_in_the_first_half() -> None:
    batch = trees_batch(0, 0, CONFIG, SMALLEST, is_concept=False)
    assert batch.truth.shape == (4, 64, 64)
    assert batch.truth.flatten(1).any(dim=1).all()
    assert batch.queries == ()


def test_held_out_trees_repeat(base: Path) -> None:
    model = load_base(base)
    assert held_out_trees(model, pictures=8) == held_out_trees(model, pictures=8)
    assert build(SMALLEST).config == model.config


def test_the_command_says_how_it_is_used() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "Example: python -m segmenter.tree_base" in result.output
