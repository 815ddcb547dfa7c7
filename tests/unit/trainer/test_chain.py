"""Queueing: whose queue a request goes to."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from casebook.home import Home, locked
from casebook.rounds import RoundFolder
from trainer.chain import queue_steps


def messages(home: Home) -> int:
    with closing(sqlite3.connect(home.queue / "broker.sqlite")) as connection:
        found = connection.execute("SELECT COUNT(*) FROM kombu_message").fetchone()
    return int(found[0])


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # kombu's own
def test_a_process_that_asks_two_workspaces_reaches_the_queue_of_each(tmp_path: Path) -> None:
    homes = [Home(tmp_path / "one"), Home(tmp_path / "two")]
    for home in homes:
        folder = RoundFolder(home, 1)
        folder.path.mkdir(parents=True)
        home.queue.mkdir(parents=True)
        with locked(home.worker_lock, "a worker"):  # nobody reads the queue meanwhile
            queue_steps(folder, ("select",), tmp_path)
    assert [messages(home) for home in homes] == [1, 1]
