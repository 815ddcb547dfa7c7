"""Work is asked for by task name and awaited on disk; a worker that is not there is told."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from casebook.errors import UnreachableError
from casebook.home import Home
from casebook.rounds import Event, RoundFolder
from cvat_sync import dispatch
from cvat_sync.dispatch import RequestedStepError, missing_steps, request_steps
from tests.fakes.cvat_round import make_round


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    monkeypatch.setenv("ANGIOLOOP_BROKER", "memory://")
    return RoundFolder(Home(tmp_path / "home"), 2)


@pytest.fixture
def worker(folder: RoundFolder, tmp_path: Path) -> Iterator[Celery]:
    """A worker whose tasks copy prepared files into the round."""
    prepared = make_round(tmp_path / "prepared")
    app = Celery("angioloop", broker="memory://", backend="cache+memory://", set_as_current=False)

    def copy(name: str, round_: int, home: str) -> None:
        place = RoundFolder(Home(Path(home)), round_)
        place.event(name.partition(".")[0], "working", 0.5)
        shutil.copy(prepared.file(name), place.file(name))

    @app.task(name="angioloop.select", shared=False)
    def select(*, round: int, home: str, conf: str) -> None:
        if Path(conf).name == "broken":
            target = RoundFolder(Home(Path(home)), round).file("failed.json")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(
                '{"step": "select", "message": "no case left", "exit_code": 6, "kind": "x"}'
            )
            return
        copy("manifest.json", round, home)

    @app.task(name="angioloop.propose", shared=False)
    def propose(*, round: int, home: str, conf: str) -> None:
        copy("proposals.coco.json", round, home)

    with start_worker(app, perform_ping_check=False, shutdown_timeout=20):
        yield app


@pytest.mark.usefixtures("worker")
def test_missing_files_are_made_in_order_with_progress(folder: RoundFolder, tmp_path: Path) -> None:
    shown: list[Event] = []
    assert missing_steps(folder) == ("select", "propose")
    request_steps(folder, tmp_path / "conf", shown.append)
    assert missing_steps(folder) == ()
    assert [event.step for event in shown] == ["manifest", "proposals"]


@pytest.mark.usefixtures("worker")
def test_the_workers_failure_is_told_with_its_exit_code(
    folder: RoundFolder, tmp_path: Path
) -> None:
    with pytest.raises(RequestedStepError, match="select: no case left") as caught:
        request_steps(folder, tmp_path / "broken", lambda _event: None)
    assert caught.value.exit_code == 6


def test_a_queue_without_a_worker_is_told(
    folder: RoundFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_ANSWER_S", 0.2)
    with pytest.raises(UnreachableError, match="no worker answers on memory://"):
        request_steps(folder, tmp_path, lambda _event: None)


def test_a_queue_that_does_not_answer_is_told_without_its_password(
    folder: RoundFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_BROKER", "redis://:secret-word@127.0.0.1:9/0")
    monkeypatch.setattr(dispatch, "_ANSWER_S", 0.2)
    with pytest.raises(UnreachableError, match="does not answer") as caught:
        request_steps(folder, tmp_path, lambda _event: None)
    assert "secret-word" not in str(caught.value)
