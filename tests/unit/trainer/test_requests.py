"""Requests on disk: what a worker resumes, and what a follower is told."""

from pathlib import Path

import pytest

from casebook.errors import StateError, TrainingError
from casebook.home import Home
from casebook.rounds import Event, RoundFolder
from trainer import requests
from trainer.follow import EventTail, follow
from trainer.requests import StepFailedError, ask, begin, fail, failure, finish, pending, unfinished


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    return RoundFolder(Home(tmp_path), 2)


def test_a_request_shrinks_and_goes_with_its_last_step(folder: RoundFolder, tmp_path: Path) -> None:
    ask(folder, ("train", "evaluate"), tmp_path, ("train.lr=1",))
    begin(folder, "train", tmp_path, ())
    finish(folder, "train")
    left = pending(folder)
    assert left is not None
    assert (left.left, left.overrides) == (("evaluate",), ("train.lr=1",))
    finish(folder, "evaluate")
    assert pending(folder) is None
    assert unfinished(folder.home) == []


def test_a_step_nobody_asked_for_makes_its_own_request(folder: RoundFolder, tmp_path: Path) -> None:
    begin(folder, "propose", tmp_path, ())
    assert [request.left for _, request in unfinished(folder.home)] == [("propose",)]


def test_a_failure_drops_the_request_and_keeps_the_message(
    folder: RoundFolder, tmp_path: Path
) -> None:
    ask(folder, ("train", "evaluate"), tmp_path, ())
    fail(folder, "train", TrainingError("step 7: the loss is not finite"))
    found = failure(folder)
    assert found is not None
    assert (found.step, found.exit_code, found.kind) == ("train", 5, "TrainingError")
    assert pending(folder) is None


def test_asking_again_forgets_the_failure(folder: RoundFolder, tmp_path: Path) -> None:
    fail(folder, "train", ValueError("odd"))
    ask(folder, ("train",), tmp_path, ())
    assert failure(folder) is None


def test_a_follower_stops_with_the_workers_message_and_exit_code(
    folder: RoundFolder, tmp_path: Path
) -> None:
    fail(folder, "decide", StateError("evaluation.json is not there"))
    seen: list[Event] = []
    folder.event("decide", "started")
    with pytest.raises(StepFailedError, match=r"decide: evaluation\.json is not there") as problem:
        follow(folder, seen.append)
    assert problem.value.exit_code == StateError.exit_code
    assert [event.message for event in seen] == ["started"]


def test_each_event_is_seen_once(folder: RoundFolder) -> None:
    tail = EventTail(folder)
    assert tail.new() == []
    folder.event("train", "one", 0.1)
    assert [event.message for event in tail.new()] == ["one"]
    assert tail.new() == []
    folder.event("train", "two", 0.2)
    folder.event("train", "three", 0.3)
    assert [event.message for event in tail.new()] == ["two", "three"]


def test_rounds_are_listed_by_number_and_other_folders_left_out(folder: RoundFolder) -> None:
    for name in ("10", "02", "control", "01"):
        (folder.home.root / "rounds" / name).mkdir(parents=True)
    assert [found.number for found in requests.round_folders(folder.home)] == [1, 2, 10]
