"""What the walks of other domains share: their configuration, the commands, what a round leaves."""

from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from angio.cli import main as casebook
from casebook.documents import read_document
from casebook.home import Home
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from tests.flow.test_rounds_worker import workers
from trainer.cli import main as trainer
from trainer.evaluate import read_evaluation
from trainer.results import Candidate
from trainer.scores import RoundEvaluation
from trainer.summary import RoundReport

CONF = Path(__file__).resolve().parents[2] / "conf"
TINY = CONF / "tiny-base"
SETTINGS: dict[str, Any] = {
    "base": str(TINY),
    "select": {"cases": 40},
    "propose": {"threshold": 0.05},
    "train": {"steps": 4, "batch": 2, "concept_every": 2, "checkpoint_every": 2},
    "gate": {"resamples": 200},
}


def need_tiny_base() -> None:
    """Skip where the shipped base is not there."""
    if not (TINY / "model.safetensors").is_file():
        pytest.skip("conf/tiny-base holds no weights")


def write_conf(folder: Path, labels: Path) -> Path:
    """A configuration of a few steps for a label set."""
    folder.mkdir(parents=True)
    settings = {"labels": str(labels), **SETTINGS}
    (folder / "round-01.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def run(command: click.Group, *arguments: str | Path) -> str:
    """One command that must succeed; what it said."""
    told = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert told.exit_code == 0, told.output
    return told.output


def take_in(home: Home, *arguments: str | Path) -> str:
    """`casebook import …` into a workspace."""
    return run(casebook, "import", *arguments, "--home", home.root)


def train(home: Home, conf: Path, number: int) -> RoundEvaluation:
    """`trainer train …` by a real worker; the round's evaluation, after a look at its report."""
    run(trainer, "train", "--round", str(number), "--home", home.root, "--conf", conf)
    folder = RoundFolder(home, number)
    candidate = read_document(folder.file("candidate.json"), Candidate)
    assert Registry(home).verify(candidate.model_id).round == number
    report = read_document(folder.file("report.json"), RoundReport)
    assert report.candidate == candidate.model_id
    page = folder.file("report.html").read_text(encoding="utf-8")
    for word in ("CASS", "coronary", "vessel"):
        assert word not in page, f"a report of another domain speaks of {word}"
    found = read_evaluation(folder)
    for scored in (found.candidate.val, found.candidate.test):
        assert scored.cases
        assert all(0 <= case.iou_box <= 1 for case in scored.cases)
    return found


def stop_workers(home: Home) -> None:
    """End the workers of a workspace."""
    for process in workers(home):
        process.kill()
        process.wait(timeout=60)
