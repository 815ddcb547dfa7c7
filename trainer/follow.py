"""Following a round while a worker works on it: new events, the end, or the failure.

Reads files only, so that any number may follow, from any machine that sees the workspace.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tqdm import tqdm

from casebook.documents import read_lines
from casebook.embedded import ensure_worker
from casebook.rounds import Event, RoundFolder
from trainer.requests import StepFailedError, failure, pending

POLL_S = 0.3
_WORKER_CHECK_S = 2.0


@dataclass
class EventTail:
    """The lines of progress of a round that were not seen yet."""

    folder: RoundFolder
    since: datetime | None = None
    _seen: int = 0

    def new(self) -> list[Event]:
        """Events written since the last call, and not before `since`."""
        path = self.folder.file("events.jsonl")
        if not path.exists() or path.stat().st_size == self._seen:
            return []
        size = path.stat().st_size
        events = [event for event in read_lines(path, Event) if self._is_wanted(event)]
        self._seen = size
        if events:
            self.since = events[-1].at
        return events

    def _is_wanted(self, event: Event) -> bool:
        return self.since is None or event.at > self.since


def follow(
    folder: RoundFolder, show: Callable[[Event], None], *, since: datetime | None = None
) -> None:
    """Show events until nothing is asked of the round any more.

    A worker that died is started again and resumes.

    Raises:
        StepFailedError: a step failed; carries the message written by the worker.
    """
    tail = EventTail(folder, since)
    checked = time.monotonic()
    while True:
        is_over = pending(folder) is None
        for event in tail.new():
            show(event)
        if is_over:
            break
        if time.monotonic() - checked > _WORKER_CHECK_S:
            ensure_worker(folder.home)
            checked = time.monotonic()
        time.sleep(POLL_S)
    found = failure(folder)
    if found is not None:
        raise StepFailedError(found)


@dataclass
class Display:
    """Events as progress bars on a terminal, as sparse lines elsewhere; always on stderr."""

    number: int
    _bar: "tqdm[Any] | None" = None
    _step: str = ""
    _tenth: dict[str, int] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if sys.stderr.isatty():
            self._draw(event)
        elif self._is_news(event):
            share = "" if event.fraction is None else f" {event.fraction:4.0%}"
            sys.stderr.write(f"round {self.number:02d} {event.step}{share}  {event.message}\n")

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _draw(self, event: Event) -> None:
        if event.step != self._step:
            self.close()
            self._step = event.step
            self._bar = tqdm(
                total=100,
                desc=f"round {self.number:02d} {event.step}",
                bar_format="{desc:<20} {percentage:3.0f}% |{bar:24}| {elapsed} {postfix}",
                file=sys.stderr,
            )
        if self._bar is None:
            return
        if event.fraction is not None:
            self._bar.n = round(100 * event.fraction)
        self._bar.set_postfix_str(event.message)

    def _is_news(self, event: Event) -> bool:
        if event.fraction is None or event.fraction in (0.0, 1.0):
            self._tenth.pop(event.step, None)
            return True
        tenth = int(event.fraction * 10)
        is_news = self._tenth.get(event.step) != tenth
        self._tenth[event.step] = tenth
        return is_news
