"""The embedded worker: started when work is queued and nobody is there to do it.

Knows no queue library: the worker is `python -m trainer.worker`, and its lock says that it lives.
"""

import logging
import os
import subprocess
import sys
import time

from casebook.errors import StateError
from casebook.home import Home, is_locked

log = logging.getLogger(__name__)

IDLE_EXIT_S = 900.0
"""A worker started here leaves after this long without work."""
START_S = 900.0
"""A worker that lives and has not taken its lock after this long hangs: loading the libraries takes
seconds, on a loaded machine or a slow share minutes. One that ends is noticed at once."""
TELL_S = 20.0
"""After this long, whoever waits is told for what."""
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
        StateError: the worker stopped, or hangs and was ended; its log is quoted.
    """
    if not home.embedded or worker_alive(home):
        return False
    home.queue.mkdir(parents=True, exist_ok=True)
    said = home.queue / "worker.log"
    command = [sys.executable, "-m", "trainer.worker", "--home", str(home.root)]
    command += ["--idle-exit-s", str(idle_exit_s)]
    environment = {**os.environ, "ANGIOLOOP_HOME": str(home.root)}
    with said.open("ab") as stream:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    _STARTED.append(process)
    problem = _waited(process, home, start_s)
    if problem is None:
        return True
    tail = said.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace").strip()
    raise StateError(
        f"the worker did not start: {problem}, expected it to take {home.worker_lock}. See {said}, "
        f"then run the same command again. It said: {tail or 'nothing'}"
    )


def _waited(process: "subprocess.Popen[bytes]", home: Home, start_s: float) -> str | None:
    """Wait until a worker, this one or another's, holds the lock; else why this one does not."""
    began = time.monotonic()
    is_told = False
    while True:
        # Looked at first: a process that has ended by now takes no lock any more.
        code = process.poll()
        if worker_alive(home):
            return None
        if code is not None:
            return f"its process ended with {code}"
        waited_s = time.monotonic() - began
        if waited_s >= start_s:
            process.kill()
            process.wait()
            return f"it was still loading after {start_s:.0f} s and was ended"
        if waited_s >= TELL_S and not is_told:
            log.warning("the worker is still loading after %.0f s; waiting for it", waited_s)
            is_told = True
        time.sleep(0.05)
