"""The embedded worker: started when work is queued and nobody is there to do it.

Knows no queue library: the worker is `python -m trainer.worker`, and its lock says that it lives.
"""

import os
import subprocess
import sys
import time

from casebook.errors import StateError
from casebook.home import Home, is_locked

IDLE_EXIT_S = 900.0
"""A worker started here leaves after this long without work."""
START_S = 60.0
"""A worker that has not taken its lock after this long did not start."""
_LOG_TAIL_BYTES = 600
_STARTED: "list[subprocess.Popen[bytes]]" = []
"""Kept: the workers outlive whoever started them, which Python would warn of."""


def worker_alive(home: Home) -> bool:
    """Whether an embedded worker holds the workspace's lock."""
    return is_locked(home.worker_lock)


def ensure_worker(
    home: Home, *, idle_exit_s: float = IDLE_EXIT_S, start_s: float = START_S
) -> bool:
    """Start an embedded worker if none lives; true when one was started.

    Nothing happens with a broker of your own (`$ANGIOLOOP_BROKER`): its workers are started there.

    Raises:
        StateError: the worker stopped at once or does not take its lock; its log is quoted.
    """
    if not home.embedded or worker_alive(home):
        return False
    home.queue.mkdir(parents=True, exist_ok=True)
    log = home.queue / "worker.log"
    command = [sys.executable, "-m", "trainer.worker", "--home", str(home.root)]
    command += ["--idle-exit-s", str(idle_exit_s)]
    environment = {**os.environ, "ANGIOLOOP_HOME": str(home.root)}
    with log.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    _STARTED.append(process)
    deadline = time.monotonic() + start_s
    while time.monotonic() < deadline:
        if process.poll() is not None and not worker_alive(home):
            break
        if worker_alive(home):
            return True
        time.sleep(0.05)
    tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
    raise StateError(
        f"the worker did not start (exit {process.poll()}); see {log}. It said: {tail or 'nothing'}"
    )
