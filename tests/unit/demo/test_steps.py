import os
import sys
from pathlib import Path

import psutil
import pytest

from demo.steps import StepError, beside


def test_what_runs_beside_is_waited_for_and_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with beside(("casebook", "--help"), os.environ, tmp_path / "log"):
        sys.stdout.write("meanwhile")
        sys.stdout.flush()
    shown = capfd.readouterr().out
    assert shown.index("$ casebook --help &") < shown.index("meanwhile")
    assert shown.index("meanwhile") < shown.index("casebook --help: Usage")


def test_a_command_beside_that_fails_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = ("trainer", "control", "--here", "--home", str(tmp_path / "home"))
    with (
        pytest.raises(StepError, match=r"ended with code 6: .*no round has been decided"),
        beside(command, os.environ, tmp_path / "log"),
    ):
        pass


def test_what_fails_meanwhile_ends_what_runs_beside(tmp_path: Path) -> None:
    def ours() -> list[psutil.Process]:
        found = psutil.Process().children()
        return [one for one in found if str(tmp_path) in " ".join(one.cmdline())]

    def fails() -> None:
        assert len(ours()) == 1
        raise ZeroDivisionError

    waits = ("casebook", "phantoms", str(tmp_path / "many"), "--patients", "5000")
    with pytest.raises(ZeroDivisionError), beside(waits, os.environ, tmp_path / "log"):
        fails()
    assert not ours()
