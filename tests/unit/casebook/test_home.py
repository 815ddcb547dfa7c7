"""Places, locks and the audit."""

import getpass
import json
import os
from pathlib import Path

import pytest

from casebook.errors import BusyError
from casebook.home import Home, is_locked, locked


def test_the_workspace_is_the_one_given_else_the_environments_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path / "env"))
    assert Home.resolve(tmp_path / "given").root == tmp_path / "given"
    assert Home.resolve().root == tmp_path / "env"
    monkeypatch.delenv("ANGIOLOOP_HOME")
    monkeypatch.chdir(tmp_path)
    assert Home.resolve().root == tmp_path / "workspace"


def test_everything_lies_below_the_workspace(tmp_path: Path) -> None:
    home = Home(tmp_path)
    places = [home.cases, home.catalogue, home.private, home.models, home.queue, home.worker_lock]
    places.append(home.round_folder(2))
    assert all(place.is_relative_to(tmp_path) for place in places)
    assert home.round_folder(2).name == "02"


def test_the_queue_is_embedded_unless_a_broker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    home = Home(tmp_path)
    assert home.embedded
    assert home.broker_url.startswith("sqla+sqlite:///")
    monkeypatch.setenv("ANGIOLOOP_BROKER", "redis://queue:6379/0")
    assert not home.embedded
    assert home.broker_url == "redis://queue:6379/0"


def test_a_lock_is_held_by_one_and_freed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "worker.lock"
    assert not is_locked(path)
    with locked(path, "the worker"):
        assert is_locked(path)
        with (
            pytest.raises(BusyError, match="a second one is already"),
            locked(path, "a second one"),
        ):
            pytest.fail("two hold one lock")
    assert not is_locked(path)


def test_the_lock_of_a_busy_place_names_what_is_busy(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with (
        locked(path, "one"),
        pytest.raises(
            BusyError,
            match=rf"round 02 is already running \(by .+, process {os.getpid()}, since 20.+ min\)",
        ),
        locked(path, "round 02"),
    ):
        pytest.fail("two hold one lock")


def test_what_a_killed_holder_left_behind_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.touch()
    (tmp_path / "a.lock.owner").write_text("torn")
    with locked(path, "one"):
        assert is_locked(path)
    assert not (tmp_path / "a.lock.owner").exists()


def test_the_audit_names_the_login_when_no_user_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANGIOLOOP_USER", raising=False)
    monkeypatch.setenv("LOGNAME", "someone")
    Home(tmp_path).audit("push", "round 02")
    assert json.loads((tmp_path / "audit.jsonl").read_text())["who"] == "someone"


def test_the_audit_gives_the_number_of_a_user_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody() -> str:
        raise OSError("no entry in the password database")

    monkeypatch.delenv("ANGIOLOOP_USER", raising=False)
    monkeypatch.setattr(getpass, "getuser", nobody)
    Home(tmp_path).audit("push", "round 02")
    entry = json.loads((tmp_path / "audit.jsonl").read_text())
    assert entry["who"] == f"uid {os.getuid()}"
