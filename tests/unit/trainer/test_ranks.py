"""Training in two processes over gloo, as torchrun starts them, beside training in one."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from casebook.errors import ConfigError, TrainingError
from casebook.home import Home
from casebook.rounds import RoundFolder
from segmenter import ranks
from segmenter.adapter import WEIGHTS
from segmenter.fit import LoraConfig, Progress, TrainConfig
from segmenter.rounds import RoundResult, train_adapter
from segmenter.stopping import StopConfig
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.ranks import train_together
from trainer.samples import training_set
from trainer.tasks import run_step
from trainer.teachers import base_folder
from trainer.work import Work

CONFIG = TrainConfig(
    steps=4,
    lr=1e-3,
    batch=3,
    concept_every=0,
    log_every=1,
    checkpoint_every=2,
    seed=5,
    lora=LoraConfig(rank=2, alpha=4, dropout=0.0, targets=("vit", "mask_decoder")),
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    root = tmp_path_factory.mktemp("ranks")
    home, conf = make_workspace(root), make_conf(root)
    one = Work(RoundFolder(home, 1), conf)
    run_step("select", one)
    return one


def alone(work: Work, config: TrainConfig, directory: Path) -> tuple[RoundResult, list[Progress]]:
    home: Home = work.folder.home
    data = training_set(
        home, work.catalogue, (1,), work.folder.manifest().labels, work.config.weights
    )
    told: list[Progress] = []
    result = train_adapter(
        data.samples,
        config,
        base=base_folder(work),
        init_adapter=None,
        directory=directory,
        progress=told.append,
        device="cpu",
    )
    return result, told


def test_two_processes_have_the_loss_and_the_weights_of_one(work: Work, tmp_path: Path) -> None:
    one, told_one = alone(work, CONFIG, tmp_path / "one")
    told_two: list[Progress] = []
    two = train_together(work, (1,), CONFIG, None, tmp_path / "two", 2, told_two.append)
    losses = [[told.figures["loss"] for told in run] for run in (told_one, told_two)]
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    weights = [load((run.folder / WEIGHTS).read_bytes()) for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=2e-4), name
    assert (two.n_trainable, two.n_masks, two.fit.steps) == (one.n_trainable, one.n_masks, 4)


def test_a_batch_taken_in_parts_is_the_same_step(work: Work, tmp_path: Path) -> None:
    _, whole = alone(work, CONFIG, tmp_path / "whole")
    _, parts = alone(work, CONFIG.model_copy(update={"accumulate": 3}), tmp_path / "parts")
    assert [told.figures["loss"] for told in parts] == pytest.approx(
        [told.figures["loss"] for told in whole], rel=1e-3
    )


def test_processes_agree_when_to_stop(work: Work, tmp_path: Path) -> None:
    # No gain is ever enough, so that the first look is the best and the next ends the training.
    stop = StopConfig(every=1, patience=1, min_gain=0.99)
    config = CONFIG.model_copy(update={"stop": stop})
    done = train_together(work, (1,), config, None, tmp_path / "two", 2, lambda _: None)
    assert (done.fit.steps, done.fit.figures["val_step"]) == (2, 1.0)
    assert 0 <= done.fit.figures["val"] <= 1


def test_a_failure_in_one_process_is_told_in_a_line_and_the_next_run_goes_on(
    work: Work, tmp_path: Path
) -> None:
    first = CONFIG.model_copy(update={"steps": 2})
    train_together(work, (1,), first, None, tmp_path / "run", 2, lambda _: None)
    # The same directory with other settings is refused by both processes.
    other = CONFIG.model_copy(update={"lr": 5e-4})
    with pytest.raises(TrainingError, match=r"one of 2 processes .* other settings"):
        train_together(work, (1,), other, None, tmp_path / "run", 2, lambda _: None)


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ranks.processes_for(None) == 2
    with pytest.raises(ConfigError, match="3, 2 GPUs are visible"):
        ranks.processes_for(3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert (ranks.processes_for(None), ranks.processes_for(3)) == (1, 3)
