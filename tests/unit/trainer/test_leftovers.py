"""What killed processes leave half-written."""

import os
import time
from pathlib import Path

import pytest

from casebook.home import Home
from casebook.rounds import RoundFolder
from trainer import tasks
from trainer.leftovers import OLD_S, sweep, temporaries
from trainer.work import Work


def leave(path: Path, age_s: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"half":')
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_half_written_files_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    folder = RoundFolder(Home(tmp_path), 1)
    old = leave(folder.file(".candidate.json.abc.tmp"), OLD_S + 60)
    weights = leave(folder.file("training/m/checkpoints/.step-9.xyz.tmp"), OLD_S + 60)
    young = leave(folder.file(".request.json.def.tmp"), 5)
    whole = leave(folder.file("candidate.json"), OLD_S + 60)
    assert len(temporaries(folder)) == 3
    assert sweep(folder) == 2
    assert not old.exists()
    assert not weights.exists()
    assert young.exists()
    assert whole.exists()
    assert sweep(folder) == 0


def test_a_step_sweeps_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RoundFolder(Home(tmp_path), 1)
    old = leave(folder.file(".evaluation.json.abc.tmp"), OLD_S + 60)
    monkeypatch.setitem(tasks.STEPS, "report", lambda work: f"{work.folder.number}")
    tasks.run_step("report", Work(folder, tmp_path))
    assert not old.exists()
