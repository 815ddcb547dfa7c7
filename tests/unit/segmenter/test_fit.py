import json
import multiprocessing
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from casebook.errors import ConfigError, TrainingError
from segmenter.fit import FitResult, Progress, TrainConfig, fit
from segmenter.steps import WHOLE, Part

CONFIG = TrainConfig(lr=0.05, seed=3, log_every=2, checkpoint_every=4, warmup=0.1, weight_decay=0.0)


def line() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(2, 1)


def batch(step: int) -> Tensor:
    return torch.randn(8, 2, generator=torch.Generator().manual_seed(step))


def train(
    module: nn.Module,
    directory: Path,
    steps: int,
    *,
    stop_at: int | None = None,
    config: TrainConfig = CONFIG,
    reports: list[Progress] | None = None,
) -> FitResult:
    """Fits y = x0 - x1, with noise from the step's generator and from torch's own."""
    seen = 0

    def loss(x: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        nonlocal seen
        seen += 1
        if stop_at is not None and seen > stop_at:
            raise KeyboardInterrupt
        noise = 0.01 * torch.randn(8, generator=generator) + 0.01 * torch.randn(8)
        error = module(x)[:, 0] - (x[:, 0] - x[:, 1]) + noise
        return {"loss": (error**2).mean()}

    report = reports.append if reports is not None else None
    return fit(module, loss, batch, config, steps=steps, directory=directory, progress=report)


def test_training_lowers_the_loss_and_reports_it(tmp_path: Path) -> None:
    module, reports = line(), list[Progress]()
    result = train(module, tmp_path, 120, reports=reports)
    assert result.steps == 120
    assert reports[-1].figures["loss"] < 0.1 * reports[0].figures["loss"]
    assert reports[-1].fraction == 1.0
    assert module.weight.detach().flatten().tolist() == pytest.approx([1.0, -1.0], abs=0.05)
    assert list((tmp_path / "curves").glob("events.*"))


@pytest.mark.parametrize(
    ("schedule", "quarter", "end"),
    [("constant", 1.0, 1.0), ("linear", 0.775, 0.1), ("cosine", 0.868, 0.1)],
)
def test_the_learning_rate_follows_its_schedule(
    tmp_path: Path, schedule: str, quarter: float, end: float
) -> None:
    settings = {"lr": 0.01, "lr_floor": 0.1, "warmup": 0.0, "log_every": 1, "schedule": schedule}
    reports: list[Progress] = []
    module = line()
    fit(
        module,
        lambda x, _: {"loss": module(x).square().mean()},
        batch,
        TrainConfig.model_validate(settings),
        steps=400,
        directory=tmp_path,
        progress=reports.append,
    )
    rates = [report.figures["lr"] / 0.01 for report in reports]
    assert rates[0] == pytest.approx(1.0)
    assert rates[100] == pytest.approx(quarter, abs=1e-3)
    assert rates[-1] == pytest.approx(end, abs=5e-3)


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path, ema: float) -> None:
    config = CONFIG.model_copy(update={"ema": ema})
    whole, killed = line(), line()
    train(whole, tmp_path / "whole", 20, config=config)
    with pytest.raises(KeyboardInterrupt):
        train(killed, tmp_path / "killed", 20, stop_at=11, config=config)
    resumed = line()
    result = train(resumed, tmp_path / "killed", 20, config=config)
    assert result.resumed_from == 8
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, again = line(), line()
    train(first, tmp_path, 8)
    result = train(again, tmp_path, 8)
    assert (result.steps, result.resumed_from) == (8, 8)
    assert torch.equal(first.weight, again.weight)


def test_settings_that_came_later_count_only_where_they_are_used(tmp_path: Path) -> None:
    train(line(), tmp_path, 8)
    with safe_open(tmp_path / "step-00000008.safetensors", framework="pt") as stored:
        kept = set(json.loads(stored.metadata()["config"]))
    # A checkpoint of before there were such settings is gone on from.
    assert not kept & {"stop", "zoom", "view_in_text", "view_embedding"}
    for name in ("zoom", "view_in_text", "view_embedding"):
        with pytest.raises(ConfigError, match="other settings"):
            train(line(), tmp_path, 8, config=CONFIG.model_copy(update={name: True}))


def test_only_the_last_two_checkpoints_are_kept_and_they_are_plain_tensors(tmp_path: Path) -> None:
    train(line(), tmp_path, 20)
    found = sorted(path.name for path in tmp_path.glob("step-*.safetensors"))
    assert found == ["step-00000016.safetensors", "step-00000020.safetensors"]
    with safe_open(tmp_path / found[-1], framework="pt") as stored:
        assert stored.metadata()["step"] == "20"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(tmp_path: Path) -> None:
    module = line()

    def loss(x: Tensor, _: torch.Generator) -> Mapping[str, Tensor]:
        value = module(x).pow(2).mean()
        return {"loss": value * float("nan") if reached() else value}

    steps = iter(range(100))

    def reached() -> bool:
        return next(steps) == 6

    with pytest.raises(TrainingError, match=r"step 6: the loss or its gradient is not finite"):
        fit(module, loss, batch, CONFIG, steps=20, directory=tmp_path)
    assert torch.isfinite(module.weight).all()
    with safe_open(tmp_path / "step-00000006.safetensors", framework="pt") as stored:
        assert torch.equal(stored.get_tensor("weight.weight"), module.weight)


def test_other_settings_are_refused_in_the_same_directory(tmp_path: Path) -> None:
    train(line(), tmp_path, 4)
    with pytest.raises(ConfigError, match="other settings"):
        train(line(), tmp_path, 4, config=CONFIG.model_copy(update={"lr": 0.1}))


def test_another_model_is_refused_in_the_same_directory(tmp_path: Path) -> None:
    train(line(), tmp_path, 4)
    other = nn.Sequential(nn.Linear(2, 1))
    with pytest.raises(ConfigError, match="another model"):
        train(other, tmp_path, 4)


def test_a_module_without_trainable_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        train(line().requires_grad_(requires_grad=False), tmp_path, 4)


def test_without_steps_or_minutes_nothing_says_how_long(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="how long"):
        fit(line(), lambda *_: {}, batch, CONFIG, steps=None, directory=tmp_path)


def test_minutes_end_a_run(tmp_path: Path) -> None:
    module = line()
    config = CONFIG.model_copy(update={"minutes": 0.002})

    def loss(x: Tensor, _: torch.Generator) -> Mapping[str, Tensor]:
        return {"loss": module(x).pow(2).mean()}

    result = fit(module, loss, batch, config, steps=None, directory=tmp_path)
    assert result.steps >= 1
    assert result.seconds >= 0.12


def parted(
    module: nn.Module, most_rows: int, counts: list[int]
) -> Callable[[Tensor, torch.Generator, Part], Mapping[str, Tensor]]:
    """Fits the same line in parts; more rows at once ask for more memory than there is."""

    def loss(x: Tensor, generator: torch.Generator, part: Part) -> Mapping[str, Tensor]:
        rows = part.rows(len(x))
        counts.append(part.count)
        if rows.stop - rows.start > most_rows:
            torch.empty(2**60)
        error = module(x[rows])[:, 0] - (x[rows, 0] - x[rows, 1])
        return {"loss": (error**2).sum() / len(x)}

    return loss


def run_parted(module: nn.Module, directory: Path, most_rows: int, counts: list[int]) -> FitResult:
    loss = parted(module, most_rows, counts)
    return fit(
        module,
        lambda x, generator: loss(x, generator, WHOLE),
        batch,
        CONFIG,
        steps=5,
        directory=directory,
        part_loss=loss,
    )


def test_out_of_memory_halves_the_batch_once_and_changes_nothing_else(tmp_path: Path) -> None:
    whole, halves = line(), line()
    counts: list[int] = []
    run_parted(whole, tmp_path / "whole", 8, [])
    run_parted(halves, tmp_path / "halves", 4, counts)
    assert counts == [1, *(2 for _ in range(10))]
    assert torch.allclose(whole.weight, halves.weight, atol=1e-6)


def test_out_of_memory_in_halves_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"out of memory in 2 parts.*lower train\.batch"):
        run_parted(line(), tmp_path, 2, [])
    indivisible = line()

    def loss(x: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"loss": indivisible(torch.empty(2**60)).sum()}

    with pytest.raises(TrainingError, match="out of memory in 1 parts"):
        fit(indivisible, loss, batch, CONFIG, steps=1, directory=tmp_path / "other")


def test_parts_cover_every_row_once() -> None:
    for n in range(12):
        for count in range(1, 6):
            rows = [i for k in range(count) for i in range(n)[Part(k, count).rows(n)]]
            assert rows == list(range(n))


def test_a_loss_that_is_not_finite_names_its_batch(tmp_path: Path) -> None:
    module = line()

    def loss(x: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
        return {"loss": (module(x) * (torch.nan if (x == batch(2)).all() else 1.0)).sum()}

    with pytest.raises(TrainingError, match=r"step 2 \(frames 2\).*Look at that batch"):
        fit(
            module,
            loss,
            batch,
            CONFIG,
            steps=5,
            directory=tmp_path,
            names=lambda step: f"frames {step}",
        )
    with safe_open(tmp_path / "step-00000002.safetensors", framework="pt") as stored:
        assert torch.isfinite(stored.get_tensor("weight.weight")).all()


def test_data_parallel_is_refused(tmp_path: Path) -> None:
    module = nn.DataParallel(line())
    with pytest.raises(ConfigError, match="DataParallel breaks"):
        fit(module, lambda x, g: {}, batch, CONFIG, steps=1, directory=tmp_path)


def _train_in_a_process_of_its_own(directory: Path) -> None:
    module = line()
    train(module, directory, 10)
    save_file(module.state_dict(), directory / "found.safetensors")


def test_a_spawned_process_trains_to_the_same_weights(tmp_path: Path) -> None:
    """As on Windows, where a process inherits nothing."""
    process = multiprocessing.get_context("spawn").Process(
        target=_train_in_a_process_of_its_own, args=(tmp_path / "spawned",)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0
    here = line()
    train(here, tmp_path / "here", 10)
    found = load_file(tmp_path / "spawned" / "found.safetensors")
    assert all(torch.equal(found[name], value) for name, value in here.state_dict().items())
