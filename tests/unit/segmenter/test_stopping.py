"""Early stopping: when it ends, what it keeps, and that a kill changes neither."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from casebook.errors import ConfigError, DataError, TrainingError
from segmenter.fit import FitResult, Progress, TrainConfig, fit
from segmenter.prompts import WindowConfig
from segmenter.rounds import train_adapter
from segmenter.sam3 import Sam3
from segmenter.samples import Sample
from segmenter.stopping import Best, StopConfig
from segmenter.validation import box_iou
from tests.unit.segmenter.test_rounds import CONFIG as ROUND
from tests.unit.segmenter.test_rounds import SAMPLES, sample

STOP = StopConfig(every=3, patience=2)
CONFIG = TrainConfig(
    lr=0.2, seed=3, log_every=1, checkpoint_every=4, warmup=0.0, schedule="constant", stop=STOP
)


class Killed(BaseException):
    """What a kill leaves no time to handle."""


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(1, 1, bias=False)


def train(
    module: nn.Linear,
    directory: Path,
    validate: Callable[[], float] | None,
    *,
    config: TrainConfig = CONFIG,
    kill_at: int | None = None,
    reports: list[Progress] | None = None,
) -> FitResult:
    """The weight walks up for ever; what it is scored by has its best at 2."""
    steps = 0

    def loss(x: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            raise Killed
        # The noise tells a resumed run from one that drew another random number.
        noise = 0.1 * torch.randn(1, generator=generator).sum()
        return {"loss": -module(x).mean() * (1 + noise)}

    return fit(
        module,
        loss,
        lambda _: torch.ones(1, 1),
        config,
        steps=60,
        directory=directory,
        progress=reports.append if reports is not None else None,
        validate=validate,
    )


def near_two(module: nn.Linear) -> Callable[[], float]:
    return lambda: -abs(float(module.weight.detach()) - 2.0)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_a_training_ends_when_it_gets_no_better_and_keeps_the_best(
    tmp_path: Path, ema: float
) -> None:
    module, reports = line(), list[Progress]()
    config = CONFIG.model_copy(update={"ema": ema})
    result = train(module, tmp_path, near_two(module), config=config, reports=reports)
    best = int(result.figures["val_step"])
    assert result.steps == best + 2 * STOP.every < 60
    seen = [report.figures["val"] for report in reports if "val" in report.figures]
    assert len(seen) == result.steps // STOP.every
    assert max(seen) == result.figures["val"] == near_two(module)()
    # The last weights were further off: the best look's are kept.
    assert seen[-1] < result.figures["val"]


@pytest.mark.parametrize("kill_at", [2, 8, 11, 12, 13, 14])
def test_a_killed_run_looks_and_stops_as_an_undisturbed_one(tmp_path: Path, kill_at: int) -> None:
    whole, cut, resumed = line(), line(), line()
    undisturbed = train(whole, tmp_path / "whole", near_two(whole))
    assert undisturbed.steps > kill_at
    with pytest.raises(Killed):
        train(cut, tmp_path / "cut", near_two(cut), kill_at=kill_at)
    result = train(resumed, tmp_path / "cut", near_two(resumed))
    assert result.resumed_from < kill_at
    assert (result.steps, result.figures["val"]) == (
        undisturbed.steps,
        undisturbed.figures["val"],
    )
    assert torch.equal(whole.weight, resumed.weight)


def test_a_stopped_run_is_not_gone_on_with(tmp_path: Path) -> None:
    first, again = line(), line()
    done = train(first, tmp_path, near_two(first))
    found = train(again, tmp_path, near_two(again))
    assert (found.steps, found.resumed_from) == (done.steps, done.steps)
    assert torch.equal(first.weight, again.weight)


def test_looks_change_nothing_of_the_training_itself(tmp_path: Path) -> None:
    patient = CONFIG.model_copy(update={"stop": StopConfig(every=3, patience=100)})
    plain = CONFIG.model_copy(update={"stop": None})
    watched, unwatched = line(), line()
    # A score that always rises keeps the last look, at the last step.
    rising = iter(range(1000))
    train(watched, tmp_path / "1", lambda: float(next(rising)), config=patient)
    train(unwatched, tmp_path / "2", None, config=plain)
    assert torch.equal(watched.weight, unwatched.weight)


def test_a_gain_below_the_least_is_none() -> None:
    best, weights = Best(), {"w": nn.Parameter(torch.zeros(1))}
    config = StopConfig(every=1, patience=2, min_gain=0.1)
    for step, score in enumerate([0.5, 0.58, 0.65, 0.7, 0.7], start=1):
        best.look(step, weights, {}, lambda score=score: score, config)  # type: ignore[misc]
    assert (best.score, best.step) == (0.65, 3)
    assert best.is_enough(config)


def test_stopping_without_validation_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no validation cases"):
        train(line(), tmp_path, None)


def test_a_score_that_is_no_number_stops_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 3: the score on the validation cases"):
        train(line(), tmp_path, lambda: float("nan"))


def test_a_round_stops_on_its_validation_frames_and_keeps_training_as_before(
    base: Path, tmp_path: Path
) -> None:
    reports: list[Progress] = []
    config = ROUND.model_copy(update={"steps": 12, "stop": StopConfig(every=2, patience=1)})
    result = train_adapter(
        SAMPLES,
        config,
        base=base,
        init_adapter=None,
        directory=tmp_path,
        progress=reports.append,
        validation=[sample(9), sample(11)],
    )
    assert result.fit.steps <= 12
    assert 0 <= result.fit.figures["val"] <= 1
    assert result.fit.figures["val_step"] % 2 == 0
    plain = train_adapter(
        SAMPLES,
        ROUND.model_copy(update={"steps": 12}),
        base=base,
        init_adapter=None,
        directory=tmp_path / "plain",
        progress=(others := list[Progress]()).append,
    )
    assert plain.fit.steps == 12
    told = [report.figures["loss"] for report in reports]
    assert told == [report.figures["loss"] for report in others][: len(told)]


def test_frames_without_a_mask_to_ask_for_cannot_stop_a_training(small: Sam3) -> None:
    empty = Sample(SAMPLES[0].frame, ())
    with pytest.raises(DataError, match=r"remove train\.stop"):
        box_iou(small, WindowConfig(), [empty])
    assert small.training
