from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from casebook.errors import ConfigError, ModelError, TrainingError
from casebook.protocols import Frame, Prompt
from segmenter import adapter as adapters
from segmenter import tuning
from segmenter.fit import LoraConfig, TrainConfig
from segmenter.rounds import RoundResult, train_adapter
from segmenter.samples import Sample, TrainMask
from segmenter.teacher import Teacher, load_teacher
from segmenter.tuning import Strategy
from segmenter.weights import load_base

LORA = LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("vit", "mask_decoder", "detector"))
BOX = Prompt(box_xyxy=(20.0, 28.0, 70.0, 40.0))


@pytest.fixture
def sample() -> Sample:
    rng = np.random.default_rng(0)
    pixels = rng.integers(120, 200, (96, 96)).astype(np.uint8)
    bitmap = np.zeros((96, 96), dtype=bool)
    bitmap[30:38, 20:70] = True
    pixels[bitmap] = 40
    return Sample(Frame(pixels), (TrainMask("lesion", bitmap),), absent=("other",))


def config(strategy: Strategy, steps: int = 3) -> TrainConfig:
    return TrainConfig(
        steps=steps, lr=5e-3, batch=2, concept_every=2, lora=LORA, strategy=strategy, seed=3
    )


def train(sample: Sample, strategy: Strategy, base: Path, folder: Path) -> RoundResult:
    return train_adapter(
        [sample], config(strategy), base=base, init_adapter=None, directory=folder / strategy
    )


def answer(teacher: Teacher, frame: Frame) -> np.ndarray:
    logits = teacher.predict(teacher.embed(frame), BOX)[0].logits
    assert logits is not None
    return logits


def test_each_strategy_trains_its_own_share_of_the_weights(
    base: Path, sample: Sample, tmp_path: Path
) -> None:
    lora = train(sample, "lora", base, tmp_path)
    decoder = train(sample, "decoder", base, tmp_path)
    full = train(sample, "full", base, tmp_path)
    assert lora.n_trainable < decoder.n_trainable < full.n_trainable < full.n_params
    kept = load_file(decoder.folder / adapters.WEIGHTS)
    assert kept
    assert not any("trunk" in name for name in kept)
    assert any("trunk" in name for name in load_file(full.folder / adapters.WEIGHTS))


def test_a_teacher_switches_between_strategies_and_back_to_the_base(
    base: Path, sample: Sample, tmp_path: Path
) -> None:
    strategies: tuple[Strategy, ...] = ("lora", "decoder", "full")
    folders = {name: train(sample, name, base, tmp_path).folder for name in strategies}
    teacher = load_teacher(base.parent, None, base=base)
    bare = answer(teacher, sample.frame)
    alone = {}
    for name, folder in folders.items():
        teacher.switch(folder, name)
        alone[name] = answer(teacher, sample.frame)
        assert not np.array_equal(alone[name], bare)
        teacher.switch(None, "base")
        np.testing.assert_array_equal(answer(teacher, sample.frame), bare)
    for name in ("full", "lora", "decoder", "full"):
        teacher.switch(folders[name], name)
        np.testing.assert_array_equal(answer(teacher, sample.frame), alone[name])


def test_training_goes_on_from_the_same_strategy_only(
    base: Path, sample: Sample, tmp_path: Path
) -> None:
    first = train(sample, "decoder", base, tmp_path)
    slow = config("decoder").model_copy(update={"lr": 1e-9})
    second = train_adapter(
        [sample], slow, base=base, init_adapter=first.folder, directory=tmp_path / "next"
    )
    one, other = (load_file(r.folder / adapters.WEIGHTS) for r in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    with pytest.raises(ConfigError, match="trained by decoder; set the same strategy"):
        train_adapter(
            [sample],
            config("full"),
            base=base,
            init_adapter=first.folder,
            directory=tmp_path / "other",
        )


def test_whole_weights_of_another_base_are_refused(
    base: Path, sample: Sample, tmp_path: Path
) -> None:
    folder = train(sample, "decoder", base, tmp_path).folder
    state = load_file(folder / adapters.WEIGHTS)
    name = sorted(state)[0]
    state[name] = torch.zeros(3)
    save_file(state, folder / adapters.WEIGHTS)
    model = load_base(base)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match="do not fit this model"):
        adapters.load_adapter(model, folder, "broken")
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_layer_that_no_path_trains_is_refused_by_name(
    base: Path, sample: Sample, tmp_path: Path
) -> None:
    # nn.MultiheadAttention never calls its out_proj: an update there would be saved untrained.
    lora = LORA.model_copy(
        update={"layers": (r".*image\.transformer\.encoder\.layers\.0\.self_attn\.out_proj",)}
    )
    with pytest.raises(TrainingError, match=r"get no gradient.*out_proj"):
        train_adapter(
            [sample],
            config("lora").model_copy(update={"lora": lora}),
            base=base,
            init_adapter=None,
            directory=tmp_path,
        )


def test_further_layers_by_name_are_trained_and_found_again(
    base: Path, sample: Sample, tmp_path: Path
) -> None:
    lora = LORA.model_copy(update={"layers": (r".*trunk\.blocks\.\d+\.mlp\.fc1",)})
    result = train_adapter(
        [sample],
        config("lora").model_copy(update={"lora": lora}),
        base=base,
        init_adapter=None,
        directory=tmp_path,
    )
    settings = adapters.load_adapter(load_base(base), result.folder, "again")
    assert settings.lora == lora
    assert any("mlp.fc1" in name for name in load_file(result.folder / adapters.WEIGHTS))


def test_a_strategy_without_whole_weights_frees_nothing(base: Path) -> None:
    with pytest.raises(ConfigError, match="trains no weight whole"):
        tuning.free(load_base(base), "lora")
