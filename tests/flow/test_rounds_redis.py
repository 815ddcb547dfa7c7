"""The same round over Redis, when a redis-server is installed."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from casebook.home import Home
from casebook.rounds import Event, RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.requests import pending

LIMIT_S = 240.0


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
    yield f"redis://127.0.0.1:{port}/0"
    process.terminate()
    process.wait(timeout=10)


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
        for _ in range(4):  # a worker takes some seconds to load torch
            done = run(train, env)
            if done.returncode != alone.returncode:
                break
        assert done.returncode == 0, done.stderr
    finally:
        worker.kill()
        worker.wait(timeout=10)
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
        for _ in range(4):  # a worker takes some seconds to load torch
            queued = run([*train, "--detach"], env)
            if queued.returncode != 10:
                break
        assert queued.returncode == 0, queued.stderr
        deadline = time.monotonic() + LIMIT_S
        while not any("step" in event.values for event in folder.events()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        stopped = run(["cancel", "--round", "1", "--home", str(home.root)], env)
        assert stopped.returncode == 0, stopped.stderr
        assert "stopped before the end of train" in stopped.stdout
        assert not folder.has("candidate.json")
        done = run(train, env)
        assert done.returncode == 0, done.stderr
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait(timeout=10)
    told = [event.values["step"] for event in folder.events() if "step" in event.values]
    assert told == list(range(1, 61))


def test_an_unreachable_broker_is_named_without_its_password(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    env = {**os.environ, "ANGIOLOOP_BROKER": "redis://user:hush@127.0.0.1:9/0"}
    done = run(["train", "--round", "1", "--home", str(home.root), "--conf", str(conf)], env)
    assert done.returncode == 10, done.stderr
    assert "does not answer" in done.stderr
    assert "hush" not in done.stderr


def test_a_round_goes_on_when_the_broker_was_gone_and_is_back(tmp_path: Path) -> None:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # As in compose: what is queued is kept on disk.
    options = ["--port", str(port), "--appendonly", "yes", "--appendfsync", "always"]
    command = [server, *options, "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    home, conf = make_workspace(tmp_path), make_conf(tmp_path, steps=40, every=5)
    folder = RoundFolder(home, 1)
    broker = f"redis://127.0.0.1:{port}/0"
    env = {**os.environ, "ANGIOLOOP_BROKER": broker, "OMP_NUM_THREADS": "1"}
    asked = [sys.executable, "-m", "trainer.cli", "train", "--round", "1", "--detach"]
    asked += ["--home", str(home.root), "--conf", str(conf)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL)]
    worker = [sys.executable, "-m", "trainer.worker", "--home", str(home.root)]
    running.append(subprocess.Popen(worker, env=env, stderr=subprocess.DEVNULL))
    try:
        until(lambda: subprocess.run(asked, env=env, check=False).returncode == 0, "a worker")
        until(lambda: any("step" in event.values for event in told(folder)), "the first step")
        running[0].kill()
        running[0].wait(timeout=10)
        seen = len(told(folder))
        until(lambda: len(told(folder)) > seen + 2, "work without a broker")
        running[0] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: folder.has("report.html") and pending(folder) is None, "the report")
    finally:
        for process in reversed(running):
            process.kill()
            process.wait(timeout=10)
    steps = [event.values["step"] for event in told(folder) if "step" in event.values]
    assert steps == list(range(1, 41)), "a step was lost or taken twice"


def told(folder: RoundFolder) -> list[Event]:
    """The round's progress so far."""
    return folder.events() if folder.has("events.jsonl") else []


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something, and say for what when it does not come."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s for: {what}"
        time.sleep(0.05)
