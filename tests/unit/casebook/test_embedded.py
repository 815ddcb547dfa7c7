"""The embedded worker is started when none lives, and only then.

A small module takes the worker's part: started from a folder of its own, `python -m trainer.worker`
finds it first.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from casebook import embedded
from casebook.embedded import ensure_worker, worker_alive
from casebook.errors import StateError
from casebook.home import Home, locked

WORKER = """
import sys, time
from pathlib import Path
from filelock import FileLock

home, idle_exit_s = Path(sys.argv[2]), float(sys.argv[4])
with FileLock(home / "queue" / "worker.lock"):
    time.sleep(idle_exit_s)
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").touch()
    (tmp_path / "trainer" / "worker.py").write_text(WORKER)
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path / "workspace")


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    """End what a test started."""
    before = len(embedded._STARTED)
    yield
    for process in embedded._STARTED[before:]:
        process.kill()
        process.wait()


def test_a_worker_is_started_and_another_is_not(home: Home) -> None:
    assert ensure_worker(home)
    assert worker_alive(home)
    assert not ensure_worker(home)
    embedded._STARTED[-1].kill()
    embedded._STARTED[-1].wait()
    assert not worker_alive(home)
    assert ensure_worker(home)


def test_a_worker_that_takes_its_time_is_waited_for_and_that_is_told(
    home: Home, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "TELL_S", 0.2)
    Path("trainer/worker.py").write_text(f"import time\ntime.sleep(1)\n{WORKER}")
    with caplog.at_level(logging.WARNING):
        assert ensure_worker(home)
    assert worker_alive(home)
    assert [record.getMessage()[:33] for record in caplog.records] == [
        "the worker is still loading after"
    ]


def test_a_worker_that_ends_while_loading_is_noticed_long_before_the_limit(home: Home) -> None:
    Path("trainer/worker.py").write_text("import time\ntime.sleep(0.5)\nraise MemoryError\n")
    with pytest.raises(StateError, match=r"(?s)process ended with 1, .*MemoryError"):
        ensure_worker(home, start_s=1e9)


def test_a_living_worker_is_enough(home: Home) -> None:
    with locked(home.worker_lock, "the worker"):
        assert not ensure_worker(home)


def test_with_a_broker_of_your_own_none_is_started(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_BROKER", "redis://queue:6379/0")
    assert not ensure_worker(home)
    assert not home.queue.exists()


@pytest.mark.parametrize(
    ("last_words", "quoted"), [("sys.exit('no GPU')", "no GPU"), ("", "nothing")]
)
def test_a_worker_that_stops_at_once_is_quoted(home: Home, last_words: str, quoted: str) -> None:
    Path("trainer/worker.py").write_text(f"import sys\n{last_words}\n")
    said = rf"did not start: its process ended with \d, expected .*again\. It said: {quoted}"
    with pytest.raises(StateError, match=said):
        ensure_worker(home)


def test_a_worker_that_hangs_is_ended_and_said_so(home: Home) -> None:
    Path("trainer/worker.py").write_text("import time\ntime.sleep(3600)\n")
    with pytest.raises(StateError, match=r"still loading after 0 s and was ended, expected"):
        ensure_worker(home, start_s=0.2)
    assert embedded._STARTED[-1].poll() is not None
    assert not worker_alive(home)
