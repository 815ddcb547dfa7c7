"""Calling off what is asked of a round: at work, waiting, asked anew, or over already."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from casebook.documents import read_document, read_lines
from casebook.errors import StateError
from casebook.home import AuditEntry, Home, locked
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.cancellation import CancelledError, cancel, is_cancelled, wait
from trainer.cli import main
from trainer.requests import ask, failure, pending
from trainer.results import Candidate
from trainer.tasks import TASKS, run_step
from trainer.work import Work


@pytest.fixture
def work(tmp_path: Path) -> Work:
    one = Work(RoundFolder(make_workspace(tmp_path), 1), make_conf(tmp_path, every=100))
    run_step("select", one)
    return one


def test_a_training_called_off_keeps_what_it_did_and_goes_on_when_asked_again(work: Work) -> None:
    folder = work.folder
    asked = ask(folder, ("train", "evaluate"), work.conf, ()).at
    with locked(folder.file(".lock"), "round 01"):  # as the worker at work does
        assert cancel(folder, "wrong labels") == "train"
        assert pending(folder) is not None
        assert not wait(folder, 0.0)
    with pytest.raises(CancelledError, match=r"called off \(wrong labels\)"):
        run_step("train", work)
    assert wait(folder, 0.0)
    assert pending(folder) is None
    found = failure(folder)
    assert found is not None
    assert (found.step, found.exit_code) == ("train", 11)
    assert not folder.has("candidate.json")
    assert [path.name for path in folder.path.glob("training/*/checkpoints/*.safetensors")] == [
        "step-00000001.safetensors"
    ]
    # The next link of the old chain does nothing, whenever it arrives.
    with pytest.raises(CancelledError):
        run_step("evaluate", work, asked)
    assert pending(folder) is None

    again = ask(folder, ("train",), work.conf, ()).at
    run_step("train", work, again)
    candidate = read_document(folder.file("candidate.json"), Candidate)
    assert candidate.steps == 4
    told = [event.values["step"] for event in folder.events() if "step" in event.values]
    assert told == [1, 2, 3, 4]


def test_a_step_that_waits_never_begins_and_its_task_ends_without_an_error(work: Work) -> None:
    folder = work.folder
    asked = ask(folder, ("train", "evaluate"), work.conf, ()).at
    cancel(folder, "")
    assert pending(folder) is None
    where = {"round": 1, "home": str(folder.home.root), "conf": str(work.conf)}
    result = TASKS["train"].apply(kwargs={**where, "asked": asked.isoformat()})
    assert (result.state, result.failed(), result.successful()) == ("IGNORED", False, False)
    assert pending(folder) is None
    assert not folder.has("training")


def test_a_request_made_after_the_cancelling_is_not_called_off(work: Work) -> None:
    first = ask(work.folder, ("train",), work.conf, ()).at
    cancel(work.folder, "")
    second = ask(work.folder, ("train",), work.conf, ()).at
    assert is_cancelled(work.folder, first)
    assert not is_cancelled(work.folder, second)
    work.progress("train", "going on", 0.5)
    assert pending(work.folder) is not None


def test_nothing_to_call_off_is_said_and_who_called_off_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    folder = RoundFolder(home, 2)
    with pytest.raises(StateError, match="round 02: nothing is being worked on"):
        cancel(folder, "")
    ask(folder, ("train",), tmp_path, ())
    arguments = ["cancel", "--round", "2", "--reason", "too early", "--home", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "stopped before the end of train" in result.output
    (entry,) = read_lines(home.root / "audit.jsonl", AuditEntry)
    assert (entry.action, entry.subject, entry.reason) == ("cancel", "round 02", "too early")
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == StateError.exit_code
