"""What a worker that starts on a broker of one's own queues again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from celery import Celery

from casebook.documents import read_lines, write_bytes
from casebook.home import Home, locked
from casebook.rounds import Event, RoundFolder
from trainer.requests import MAX_RESUMPTIONS, Request, ask, failure, pending, write
from trainer.worker import AGAIN, WAITING, requeue


@pytest.fixture
def app() -> Iterator[Celery]:
    found = Celery("requeue", broker="memory://")
    found.conf.update(task_serializer="json", accept_content=["json"])
    yield found
    with found.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")
    found.close()


def queued(app: Celery) -> list[str]:
    """Names of the tasks that wait in the queue, which is emptied."""
    names = []
    with app.connection_for_read() as connection, connection.SimpleQueue("celery") as queue:
        while queue.qsize():
            message = queue.get_nowait()
            message.ack()
            names.append(message.headers["task"])
    return names


def asked(tmp_path: Path, ago: timedelta, **changes: object) -> RoundFolder:
    """A round whose training and evaluation were asked for some time ago."""
    folder = RoundFolder(Home(tmp_path), 1)
    folder.path.mkdir(parents=True)
    request = ask(folder, ("train", "evaluate"), tmp_path, ())
    write(folder, request.with_(at=datetime.now(UTC) - ago, **changes))
    return folder


def tell(folder: RoundFolder, message: str, ago: timedelta) -> None:
    """A line of progress of some time ago."""
    event = Event(at=datetime.now(UTC) - ago, step="train", message=message)
    path = folder.file("events.jsonl")
    before = path.read_bytes() if path.exists() else b""
    write_bytes(path, before + event.model_dump_json().encode() + b"\n")


def still_pending(folder: RoundFolder) -> Request:
    request = pending(folder)
    assert request is not None
    return request


def test_a_step_whose_worker_is_gone_is_queued_again_and_the_loss_is_counted(
    tmp_path: Path, app: Celery
) -> None:
    folder = asked(tmp_path, timedelta(minutes=5))
    tell(folder, "step 3 of 40", timedelta(seconds=2))
    requeue(app, folder.home)
    assert queued(app) == ["angioloop.train"]
    assert still_pending(folder).resumed == 1
    assert read_lines(folder.file("events.jsonl"), Event)[-1].message == AGAIN
    requeue(app, folder.home)  # another worker that starts at the same time
    assert queued(app) == []
    assert still_pending(folder).resumed == 1


@pytest.mark.parametrize("marked", [False, True])
def test_what_waits_is_queued_again_only_when_it_has_waited_for_long(
    tmp_path: Path, app: Celery, marked: bool
) -> None:
    folder = asked(tmp_path, 2 * WAITING)
    if marked:
        tell(folder, AGAIN, WAITING + timedelta(seconds=5))
    requeue(app, folder.home)
    assert queued(app) == ["angioloop.train"]
    assert still_pending(folder).resumed == 0, "nobody had begun it"
    requeue(app, folder.home)
    assert queued(app) == []


def test_a_step_a_worker_is_at_is_left_to_it(tmp_path: Path, app: Celery) -> None:
    folder = asked(tmp_path, timedelta(hours=2))
    tell(folder, "step 3 of 40", timedelta(hours=1))
    with locked(folder.file(".lock"), "round 01"):
        requeue(app, folder.home)
    assert queued(app) == []


def test_a_step_that_lost_its_worker_too_often_is_given_up(tmp_path: Path, app: Celery) -> None:
    folder = asked(tmp_path, timedelta(hours=2), resumed=MAX_RESUMPTIONS)
    tell(folder, "step 3 of 40", timedelta(minutes=5))
    requeue(app, folder.home)
    assert queued(app) == []
    assert pending(folder) is None
    found = failure(folder)
    assert found is not None
    assert f"the worker died {MAX_RESUMPTIONS} times in a row during train" in found.message
