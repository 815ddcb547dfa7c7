"""The embedded worker is started when none lives, and only then.

A small module takes the worker's part: started from a folder of its own, `python -m trainer.worker`
finds it first.
"""

import time
from pathlib import Path

import pytest

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


def test_a_worker_is_started_and_another_is_not(home: Home) -> None:
    assert ensure_worker(home, idle_exit_s=1.0)
    assert worker_alive(home)
    assert not ensure_worker(home, idle_exit_s=1.0)
    deadline = time.monotonic() + 20
    while worker_alive(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker_alive(home)


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
    with pytest.raises(StateError, match=rf"did not start \(exit \d\).*It said: {quoted}"):
        ensure_worker(home)


def test_a_worker_that_never_takes_its_lock_did_not_start(home: Home) -> None:
    Path("trainer/worker.py").write_text("import time\ntime.sleep(1)\n")
    with pytest.raises(StateError, match=r"did not start \(exit None\)"):
        ensure_worker(home, start_s=0.2)
