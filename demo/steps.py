"""Runs the real commands, one after another or two at once, and watches the memory of all of them.

Each command is the one a user would type; its progress goes straight to the terminal.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from casebook.errors import AngioloopError

SCRIPTS = {
    "casebook": "angio.cli",
    "cvatsync": "cvat_sync.cli",
    "trainer": "trainer.cli",
    "angioinfer": "export.cli",
}
"""Console scripts by module, so that the walk runs from any environment."""


class StepError(AngioloopError):
    """A command of the walk failed; it has said why."""


def say(text: str) -> None:
    """A headline of the walk."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}", flush=True)


def run(command: Sequence[str], env: Mapping[str, str], *, allowed: Sequence[int] = (0,)) -> int:
    """Run `casebook …`, `cvatsync …`, `trainer …` or `angioinfer …` and return its exit code.

    Raises:
        StepError: it ended with a code that is not allowed.
    """
    script, *arguments = command
    print(f"$ {' '.join(command)}", flush=True)
    called = [sys.executable, "-m", SCRIPTS[script], *arguments]
    code = subprocess.run(called, env={**os.environ, **env}, check=False).returncode
    if code not in allowed:
        raise StepError(
            f"`{' '.join(command)}` ended with code {code}; its message is above. "
            "Run the same make command again to go on from here"
        )
    return code


@contextmanager
def beside(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run a command beside what is done meanwhile; it is waited for in the end.

    Args:
        command: As of `run`.
        env: As of `run`.
        log: Takes what it says meanwhile; what it says in the end is shown.

    Raises:
        StepError: it ended with a code other than 0.
    """
    script, *arguments = command
    print(f"$ {' '.join(command)} &", flush=True)
    called = [sys.executable, "-m", SCRIPTS[script], *arguments]
    with log.open("wb") as said:
        process = subprocess.Popen(
            called, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=said
        )
    try:
        yield
        found, _ = process.communicate()
    except BaseException:
        process.terminate()
        process.communicate()
        raise
    print(f"{' '.join(command[:2])}: {found.decode(errors='replace').strip()}", flush=True)
    if process.returncode:
        told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise StepError(
            f"`{' '.join(command)}` ended with code {process.returncode}: "
            f"{told[-1] if told else 'it said nothing'} (all of it: {log}). "
            "Run the same make command again to go on from here"
        )


class MemoryWatch:
    """Peak resident memory of this process and all it started, workers included."""

    def __init__(self, marker: Path, period_s: float = 0.5) -> None:
        self._marker = str(marker)
        self._period_s = period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = 0.0

    def __enter__(self) -> "MemoryWatch":
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, *problem: object) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._period_s):
            self.peak_mb = max(self.peak_mb, self._now_mb())

    def _now_mb(self) -> float:
        """Our process tree, and detached workers that name this workspace on their command line."""
        own = psutil.Process()
        family = {own.pid, *(child.pid for child in own.children(recursive=True))}
        total = 0
        for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
            info = process.info
            named = any(self._marker in part for part in info["cmdline"] or ())
            if (info["pid"] in family or named) and info["memory_info"] is not None:
                total += int(info["memory_info"].rss)
        return total / 2**20


def stopwatch() -> float:
    """Seconds of a clock that only moves forward."""
    return time.monotonic()
