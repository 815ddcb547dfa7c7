"""The same round over Redis, when a redis-server is installed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from casebook.home import Home
from casebook.registry import Registry
from casebook.rounds import Event, RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.cancellation import CANCELLED
from trainer.requests import failure, pending

LIMIT_S = 900.0
"""Only what hangs takes so long; a slow machine may take minutes to load torch."""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    until(lambda: answers(port), "redis-server")
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(timeout=60)


def run(arguments: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "trainer.cli", *arguments],
        env=env,
        timeout=LIMIT_S,
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_round_runs_over_redis_and_says_when_no_worker_is_there(
    broker: str, tmp_path: Path
) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    env = {**os.environ, "ANGIOLOOP_BROKER": broker, "OMP_NUM_THREADS": "1"}
    train = ["train", "--round", "1", "--home", str(home.root), "--conf", str(conf)]
    alone = run(train, env)
    assert alone.returncode == 10, alone.stderr
    assert "no worker answers" in alone.stderr
    worker = subprocess.Popen(
        [sys.executable, "-m", "trainer.worker", "--home", str(home.root)],
        env=env,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: asked(home, conf, env), "a worker")
        done = run(train, env)
        assert done.returncode == 0, done.stderr
    finally:
        worker.kill()
        worker.wait(timeout=60)
    assert RoundFolder(Home(home.root), 1).has("report.html")


def test_work_called_off_over_redis_stops_and_goes_on_when_asked(
    broker: str, tmp_path: Path
) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path, steps=60, every=100)
    env = {**os.environ, "ANGIOLOOP_BROKER": broker, "OMP_NUM_THREADS": "1"}
    train = ["train", "--round", "1", "--home", str(home.root), "--conf", str(conf)]
    folder = RoundFolder(home, 1)
    worker = subprocess.Popen(
        [sys.executable, "-m", "trainer.worker", "--home", str(home.root)],
        env=env,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: asked(home, conf, env), "a worker")
        until(lambda: step_told(folder) > 0, "the first step")
        worker.send_signal(signal.SIGSTOP)  # else the training might end before it is called off
        cancel = [sys.executable, "-m", "trainer.cli", "cancel", "--round", "1"]
        stop = subprocess.Popen(
            [*cancel, "--home", str(home.root)], env=env, stdout=subprocess.PIPE, text=True
        )
        until(lambda: folder.has(CANCELLED), "the end being asked for")
        worker.send_signal(signal.SIGCONT)
        said, _ = stop.communicate(timeout=LIMIT_S)
        assert stop.returncode == 0
        assert "stopped before the end of train" in said
        assert not folder.has("candidate.json")
        done = run(train, env)
        assert done.returncode == 0, done.stderr
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait(timeout=60)
    told = [event.values["step"] for event in folder.events() if "step" in event.values]
    assert told == list(range(1, 61))


def test_an_unreachable_broker_is_named_without_its_password(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    env = {**os.environ, "ANGIOLOOP_BROKER": "redis://user:hush@127.0.0.1:9/0"}
    done = run(["train", "--round", "1", "--home", str(home.root), "--conf", str(conf)], env)
    assert done.returncode == 10, done.stderr
    assert "does not answer" in done.stderr
    assert "hush" not in done.stderr


def test_a_round_goes_on_when_the_broker_was_gone_in_a_step_and_again_at_its_end(
    tmp_path: Path,
) -> None:
    command, broker = kept_on_disk(tmp_path)
    home, conf = make_workspace(tmp_path), make_conf(tmp_path, steps=60, every=5)
    folder, log = RoundFolder(home, 1), tmp_path / "worker.log"
    env = {**os.environ, "ANGIOLOOP_BROKER": broker, "OMP_NUM_THREADS": "1"}
    running = [start(command), start_worker(home, env, log)]
    try:
        until(lambda: asked(home, conf, env), "a worker")
        until(lambda: step_told(folder) > 0, "the first step")
        kill(running[0])
        seen = len(told(folder))
        until(lambda: len(told(folder)) > seen + 2, "work without a broker")
        running[0] = start(command)
        until(lambda: step_told(folder) > 20, "half the training")
        # Held still, the worker cannot reach the end of the step before the broker is gone.
        running[1].send_signal(signal.SIGSTOP)
        kill(running[0])
        assert not folder.has("candidate.json")
        running[1].send_signal(signal.SIGCONT)
        until(lambda: folder.has("candidate.json"), "the end of the training")
        # Left to itself, Celery gives up after three attempts and the chain ends here for good.
        until(lambda: log.read_text().count("Retrying refused callback") > 4, "five attempts")
        assert not folder.has("evaluation.json")
        running[0] = start(command)
        until(lambda: folder.has("report.html") and pending(folder) is None, "the report")
    finally:
        for process in reversed(running):
            kill(process)
    steps = [event.values["step"] for event in told(folder) if "step" in event.values]
    assert steps == list(range(1, 61)), "a step was lost or taken twice"


def test_workers_that_start_go_on_with_what_a_killed_one_left_on_redis(tmp_path: Path) -> None:
    command, broker = kept_on_disk(tmp_path)
    home, conf = make_workspace(tmp_path), make_conf(tmp_path, steps=40, every=5)
    folder, log = RoundFolder(home, 1), tmp_path / "worker.log"
    env = {**os.environ, "ANGIOLOOP_BROKER": broker, "OMP_NUM_THREADS": "1"}
    running = [start(command), start_worker(home, env, log)]
    try:
        until(lambda: asked(home, conf, env), "a worker")
        until(lambda: step_told(folder) > 10, "some steps")
        kill(running.pop())
        # Redis would hand the message out again after twelve hours. Both find the round unfinished.
        running += [start_worker(home, env, log) for _ in range(2)]
        until(lambda: folder.has("report.html") and pending(folder) is None, "the report")
        assert failure(folder) is None
    finally:
        for process in reversed(running):
            kill(process)
    steps = [event.values["step"] for event in told(folder) if "step" in event.values]
    assert steps[-1] == 40
    assert steps.count(1) == 1, "the training began anew instead of from its checkpoint"
    assert len(Registry(home).cards()) == 1


def kept_on_disk(folder: Path) -> tuple[list[str], str]:
    """The command of a redis-server that keeps what is queued, as in compose, and its address."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--port", str(port), "--appendonly", "yes", "--appendfsync", "always"]
    command = [server, *options, "--bind", "127.0.0.1", "--dir", str(folder)]
    return command, f"redis://127.0.0.1:{port}/0"


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    """A server that says nothing."""
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def start_worker(home: Home, env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """A worker that writes to a log."""
    command = [sys.executable, "-m", "trainer.worker", "--home", str(home.root)]
    with log.open("ab") as stream:
        return subprocess.Popen(command, env=env, stderr=stream)


def kill(process: "subprocess.Popen[bytes]") -> None:
    """As a power cut would."""
    process.kill()
    process.wait(timeout=60)


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked(home: Home, conf: Path, env: dict[str, str]) -> bool:
    """Whether round 1 could be queued."""
    options = ["--home", str(home.root), "--conf", str(conf)]
    return run(["train", "--round", "1", "--detach", *options], env).returncode == 0


def step_told(folder: RoundFolder) -> float:
    """The last training step told so far."""
    return max((event.values.get("step", 0.0) for event in told(folder)), default=0.0)


def told(folder: RoundFolder) -> list[Event]:
    """The round's progress so far."""
    return folder.events() if folder.has("events.jsonl") else []


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something, and say for what when it does not come."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s for: {what}"
        time.sleep(0.05)
