"""Ctrl-C on the way: the command ends at once with one line, and the next run goes on."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from casebook.rounds import RoundFolder
from cvat_sync.commands.options import stopping_at_once
from cvat_sync.gateway import CvatGateway
from cvat_sync.pushed import need_pushed
from tests.contract.cvat_rounds import complete
from tests.contract.cvat_servers import TOKEN, standin
from tests.fakes.cvat_round import make_round

SOON_S = 30.0
"""Much less than one request may take, much more than an end takes on a busy machine."""


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """Commands begin with Ctrl-C as a terminal has it, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "cvat.yaml").write_text("frames_per_task: 1\nparallel: 2\n")
    return make_round(tmp_path, 12)


def interrupted(
    folder: RoundFolder, url: str, verb: str, sign: str, *options: str
) -> tuple[int, str]:
    """Exit code and what was said of a command that gets Ctrl-C once it has said a word."""
    command = [sys.executable, "-m", "cvat_sync.cli", verb, "--round", "2"]
    command += ["--home", str(folder.home.root), "--conf", str(folder.home.root / "conf"), *options]
    env = {**os.environ, "ANGIOLOOP_CVAT_URL": url, "ANGIOLOOP_CVAT_TOKEN": TOKEN}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        before = ""
        while sign not in before:
            before += process.stderr.readline() or pytest.fail(f"ended with: {before}")
        process.send_signal(signal.SIGINT)
        try:
            _, after = process.communicate(timeout=SOON_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return process.returncode, after


def test_a_push_that_is_stopped_says_so_and_the_next_one_goes_on(
    folder: RoundFolder, tmp_path: Path
) -> None:
    with standin(tmp_path / "server", "--latency-ms", "150") as access:
        code, said = interrupted(folder, access.url, "push", "%  task")
        assert code == 130
        assert said.endswith(
            "\nthe push of round 02 is stopped; what was done is kept: run the same command again "
            "to go on\n"
        )
        assert "Traceback" not in said
        assert not folder.has("pushed.json")
        command = [sys.executable, "-m", "cvat_sync.cli", "push", "--round", "2"]
        command += ["--home", str(tmp_path), "--conf", str(tmp_path / "conf")]
        env = {**os.environ, "ANGIOLOOP_CVAT_URL": access.url, "ANGIOLOOP_CVAT_TOKEN": TOKEN}
        subprocess.run(command, env=env, check=True, capture_output=True)
        with CvatGateway(access) as gateway:
            pushed = need_pushed(folder)
            assert len(gateway.tasks(pushed.project_id)) == len(pushed.tasks) == 12
            complete(access, gateway, pushed)
        code, said = interrupted(folder, access.url, "pull", "%  job")
        assert (code, "the pull of round 02 is stopped" in said) == (130, True)
        assert not folder.has("annotations.coco.json")


def test_what_a_shell_runs_in_the_background_leaves_ctrl_c_to_others() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stopping_at_once("the push"):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with stopping_at_once("the push"):
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_server_that_never_answers_is_not_waited_for_after_ctrl_c(folder: RoundFolder) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        code, said = interrupted(folder, url, "push", "without a proposal")
    assert code == 130
    assert "the push of round 02 is stopped" in said


def test_a_watch_that_is_stopped_says_that_it_goes_on_later(folder: RoundFolder) -> None:
    poll = ("--poll", "60", "--port", "0")
    code, said = interrupted(folder, "http://nowhere", "watch", "health at", *poll)
    assert (code, said) == (
        130,
        "the watch is stopped; what was begun goes on at its next start\n",
    )
