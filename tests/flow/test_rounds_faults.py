"""What goes wrong around a round: a full disk, two promotions at once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from casebook.documents import read_document, read_lines
from casebook.home import AuditEntry, Home
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import make_conf, make_workspace
from trainer.chain import steps_left, steps_of
from trainer.requests import ask, failure, pending
from trainer.results import Candidate

LIMIT_S = 900.0
SMALLEST_KB = 150
"""Enough for a worker's queue and a round's documents, too little for a checkpoint."""


def work_off(home: Home, *, limit_kb: int | None = None) -> "subprocess.CompletedProcess[str]":
    """A worker that does what is asked and leaves; files grow to `limit_kb` at most."""
    command = [sys.executable, "-m", "trainer.worker", "--home", str(home.root)]
    command += ["--idle-exit-s", "0.5"]
    if limit_kb is not None:
        # A limit on the size of files is what a process sees of a full disk, without filling one.
        limited = f'ulimit -f {limit_kb}; trap "" XFSZ; exec "$@"'
        command = ["bash", "-c", limited, "bash", *command]
    return subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=LIMIT_S,
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_full_disk_stops_the_training_with_a_message_and_room_lets_it_go_on(
    tmp_path: Path,
) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    folder = RoundFolder(home, 1)
    folder.path.mkdir(parents=True)
    ask(folder, steps_of(1), conf, ())
    told = work_off(home, limit_kb=SMALLEST_KB)
    assert told.returncode == 0, told.stderr[-2000:]
    found = failure(folder)
    assert found is not None
    assert (found.step, found.exit_code) == ("train", 74)
    assert "MB are free" in found.message
    assert "run the same command again" in found.message
    assert pending(folder) is None
    assert folder.has("manifest.json")
    assert not list(home.root.rglob("*.tmp")), "a torn file is left"
    ask(folder, steps_left(folder), conf, ())
    told = work_off(home)
    assert told.returncode == 0, told.stderr[-2000:]
    assert steps_left(folder) == ()


def test_two_promotions_at_once_happen_one_after_the_other(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    folder = RoundFolder(home, 1)
    folder.path.mkdir(parents=True)
    ask(folder, steps_of(1)[:2], conf, ())
    assert work_off(home).returncode == 0
    first = read_document(folder.file("candidate.json"), Candidate).model_id
    registry = Registry(home)
    second = "another-teacher"
    payloads = {
        path.name: path.read_bytes()
        for path in registry.folder(first).iterdir()
        if path.name != "card.json"
    }
    registry.add(registry.card(first).with_(model_id=second), payloads)
    running = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "trainer.cli", "promote", model_id),
                *("--reason", f"asked for {model_id}", "--home", str(home.root)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for model_id in (first, second)
    ]
    said = [process.communicate(timeout=LIMIT_S)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    lines = [
        entry
        for entry in read_lines(home.root / "audit.jsonl", AuditEntry)
        if entry.action == "promote"
    ]
    assert {entry.subject for entry in lines} == {first, second}
    assert registry.promoted() == lines[-1].subject
    assert {entry.reason for entry in lines} == {f"asked for {first}", f"asked for {second}"}


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_the_teacher_is_never_changed_without_a_reason(tmp_path: Path, command: str) -> None:
    home = make_workspace(tmp_path)
    arguments = [sys.executable, "-m", "trainer.cli", command, *(["x"] * (command == "promote"))]
    told = subprocess.run(
        [*arguments, "--home", str(home.root)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 2
    assert "--reason" in told.stderr
