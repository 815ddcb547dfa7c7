"""Stopping a round's work: cancelled.json in its folder, on whichever transport.

The step that runs looks for it whenever it tells how far it is; steps still in the queue look
before they begin. A file is what the embedded queue, Redis and a worker elsewhere have in common.
"""

import time
from datetime import UTC, datetime
from typing import ClassVar, Literal

from pydantic import Field

from casebook.documents import Document, read_document, write_document
from casebook.errors import AngioloopError, BusyError, StateError
from casebook.home import locked
from casebook.rounds import RoundFolder
from trainer.requests import fail, pending

CANCELLED = "cancelled.json"
_POLL_S = 0.2


class Cancellation(Document):
    """The last request of a round that was called off."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    asked: datetime
    """When the request was made that is called off; earlier ones are too, later ones are not."""
    at: datetime
    reason: str = ""


class CancelledError(AngioloopError):
    """The work was called off; what it has done so far stays."""

    exit_code: ClassVar[int] = 11
    http_status: ClassVar[int] = 409


def cancel(folder: RoundFolder, reason: str) -> str:
    """Call off what is asked of a round; the step it stops at comes back.

    A step at work goes on until it next tells how far it is. One that waits never begins.

    Raises:
        StateError: nothing is asked of the round.
    """
    request = pending(folder)
    if request is None:
        raise StateError(
            f"round {folder.number:02d}: nothing is being worked on (state: {folder.state()}); "
            "`trainer status` shows what is"
        )
    write_document(
        folder.file(CANCELLED),
        Cancellation(asked=request.at, at=datetime.now(UTC), reason=reason),
    )
    folder.home.audit("cancel", f"round {folder.number:02d}", reason)
    try:
        with locked(folder.file(".lock"), f"round {folder.number:02d}"):
            close(folder)
    except BusyError:
        pass  # the worker that holds the round closes it
    return request.left[0]


def is_cancelled(folder: RoundFolder, asked: datetime) -> bool:
    """Whether a request made at this time was called off."""
    try:
        return asked <= read_document(folder.file(CANCELLED), Cancellation).asked
    except StateError:
        return False


def close(folder: RoundFolder) -> CancelledError | None:
    """Drop the round's request if it was called off, and say so to whoever follows.

    The round's lock must be held.
    """
    request = pending(folder)
    if request is None or not is_cancelled(folder, request.at):
        return None
    problem = error(folder)
    fail(folder, request.left[0], problem)
    return problem


def error(folder: RoundFolder) -> CancelledError:
    """The message for whoever follows a round that was called off."""
    reason = read_document(folder.file(CANCELLED), Cancellation).reason
    because = f" ({reason})" if reason else ""
    return CancelledError(
        f"round {folder.number:02d}: called off{because}. What is done is kept; run the same "
        "command again to go on from there"
    )


def check(folder: RoundFolder) -> None:
    """Stop here if the work was called off.

    Raises:
        CancelledError: it was.
    """
    if not folder.has(CANCELLED):
        return
    request = pending(folder)
    if request is not None and is_cancelled(folder, request.at):
        raise error(folder)


def wait(folder: RoundFolder, limit_s: float) -> bool:
    """Wait until the work called off has stopped; whether it has."""
    deadline = time.monotonic() + limit_s
    while True:
        request = pending(folder)
        if request is None or not is_cancelled(folder, request.at):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
