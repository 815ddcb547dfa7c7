"""Rounds by a real worker process on the embedded queue: followed, killed, resumed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from casebook.documents import read_document
from casebook.embedded import worker_alive
from casebook.home import Home
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.cancellation import CANCELLED
from trainer.chain import steps_of
from trainer.cli import main
from trainer.requests import ask, failure, pending
from trainer.results import Candidate

LIMIT_S = 900.0
"""Only what hangs takes so long; a slow machine may take minutes to load torch."""
ENV = {"OMP_NUM_THREADS": "1"}


def workers(home: Home) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "trainer.worker" in command and str(home.root) in command:
            found.append(process)
    return found


@contextmanager
def held(home: Home) -> Iterator[None]:
    """The workers stand still meanwhile, however long what the test does takes."""
    found = workers(home)
    for process in found:
        process.suspend()
    try:
        yield
    finally:
        for process in found:
            process.resume()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s for: {what}"
        time.sleep(0.02)


def command(*arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **ENV},
        # A shell in the background passes on that it ignores Ctrl-C; a terminal does not.
        preexec_fn=_listen_to_ctrl_c,
    )


def _listen_to_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Home, Path]]:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path, steps=60, every=5)
    yield home, conf
    for process in workers(home):
        process.kill()
        process.wait(timeout=60)


def options(home: Home, conf: Path) -> list[str]:
    return ["--home", str(home.root), "--conf", str(conf)]


def candidate(home: Home) -> Candidate:
    return read_document(RoundFolder(home, 1).file("candidate.json"), Candidate)


def test_a_round_is_trained_by_a_worker_and_followed_to_its_end(
    place: tuple[Home, Path],
) -> None:
    home, conf = place
    first = command("train", "--round", "1", *options(home, conf))
    said, _ = first.communicate(timeout=LIMIT_S)
    assert first.returncode == 0, said
    for step in steps_of(1):
        assert f"round 01 {step}" in said
    assert candidate(home).model_id in said
    folder = RoundFolder(home, 1)
    assert folder.has("report.html")
    assert worker_alive(home)
    seen = len(folder.events())
    again = command("train", "--round", "1", *options(home, conf))
    again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0
    assert len(folder.events()) == seen, "the second run did something"
    # A step that cannot be done ends the following with its message and exit code.
    control = command("control", *options(home, conf))
    said, _ = control.communicate(timeout=LIMIT_S)
    assert control.returncode == 6
    assert "1 rounds are decided" in said


def test_a_killed_worker_is_replaced_and_ends_at_the_same_weights(
    place: tuple[Home, Path], tmp_path: Path
) -> None:
    home, conf = place
    folder = RoundFolder(home, 1)
    follower = command("train", "--round", "1", *options(home, conf))
    until(lambda: any(folder.path.glob("training/*/checkpoints/step-*")), "a checkpoint")
    for process in workers(home):
        process.send_signal(signal.SIGKILL)
    said, _ = follower.communicate(timeout=LIMIT_S)
    assert follower.returncode == 0, said
    assert pending(folder) is None
    assert failure(folder) is None
    assert (
        sum(event.message == "started" for event in folder.events() if event.step == "train") >= 2
    )

    other = make_workspace(tmp_path / "undisturbed")
    for name in ("manifest.json", "annotations.coco.json"):
        target = RoundFolder(other, 1).file(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(folder.file(name).read_bytes())
    plain = command("train", "--round", "1", *options(other, conf))
    try:
        said, _ = plain.communicate(timeout=LIMIT_S)
    finally:
        for process in workers(other):
            process.kill()
    assert plain.returncode == 0, said
    assert candidate(other).model_id == candidate(home).model_id
    weights = [
        Registry(where).folder(candidate(where).model_id) / "adapter.safetensors"
        for where in (home, other)
    ]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_ctrl_c_stops_the_following_and_not_the_work(place: tuple[Home, Path]) -> None:
    home, conf = place
    folder = RoundFolder(home, 1)
    follower = command("train", "--round", "1", *options(home, conf))
    assert follower.stdout is not None
    shown = follower.stdout.readline()
    while shown and "round 01 train" not in shown:  # it follows, for certain
        shown = follower.stdout.readline()
    with held(home):
        follower.send_signal(signal.SIGINT)
        follower.wait(LIMIT_S)
    said, _ = follower.communicate(timeout=LIMIT_S)
    assert follower.returncode == 130, said
    assert "trainer follow --round 1" in said
    until(lambda: pending(folder) is None, "the end of the round")
    assert folder.has("report.json")


def test_a_worker_that_starts_does_what_an_earlier_one_left_and_leaves_when_idle(
    place: tuple[Home, Path],
) -> None:
    home, conf = place
    folder = RoundFolder(home, 1)
    folder.path.mkdir(parents=True)
    ask(folder, ("select",), conf, ())
    worker = subprocess.run(
        [sys.executable, "-m", "trainer.worker", "--home", str(home.root), "--idle-exit-s", "0.5"],
        env={**os.environ, **ENV},
        timeout=LIMIT_S,
        check=False,
        capture_output=True,
        text=True,
    )
    assert worker.returncode == 0, worker.stderr
    assert folder.has("manifest.json")
    assert pending(folder) is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["train", "--round", "3"], 6, "cvatsync pull --round 3"),
        (["train", "--round", "1", "--set", "train.lr=-1"], 2, "train.lr"),
        (["follow"], 6, "nothing is being worked on"),
        (["report"], 6, "no round has a report yet"),
        (["promote", "nobody", "--reason", "x"], 4, "trainer models"),
        (["rollback", "--reason", "x"], 6, "no teacher was in use before"),
        (["distil"], 6, "no round has been decided yet"),
    ],
)
def test_a_command_that_cannot_go_on_says_why_in_one_line(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    own = ["--home", str(home.root)]
    if arguments[0] in {"train", "distil"}:
        own += ["--conf", str(conf)]
    result = CliRunner().invoke(main, [*arguments, *own])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not worker_alive(home)


def test_readers_answer_as_json(tmp_path: Path) -> None:
    home = make_workspace(tmp_path)
    for name in ("status", "models"):
        result = CliRunner().invoke(main, [name, "--json", "--home", str(home.root)])
        assert result.exit_code == 0
        assert result.output[0] in "[{"


def test_work_called_off_stops_cleanly_and_the_same_worker_goes_on_when_asked(
    place: tuple[Home, Path],
) -> None:
    home, conf = place
    folder = RoundFolder(home, 1)
    follower = command("train", "--round", "1", *options(home, conf))
    until(lambda: any("step" in event.values for event in folder.events()), "the first step")
    with held(home):  # the training cannot end before the command has asked for its end
        stop = command("cancel", "--round", "1", "--reason", "too early", "--home", str(home.root))
        until(lambda: folder.has(CANCELLED), "the end being asked for")
    said, _ = stop.communicate(timeout=LIMIT_S)
    assert stop.returncode == 0, said
    assert "stopped before the end of train" in said
    said, _ = follower.communicate(timeout=LIMIT_S)
    assert follower.returncode == 11, said
    assert "called off (too early)" in said
    assert not folder.has("candidate.json")
    before = [process.pid for process in workers(home)]
    again = command("train", "--round", "1", *options(home, conf))
    said, _ = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0, said
    assert [process.pid for process in workers(home)] == before
    told = [event.values["step"] for event in folder.events() if "step" in event.values]
    # log_every is 1: a step told twice would have been taken twice.
    assert told == list(range(1, 61))
