"""What was asked of a round and is not done yet, on disk: request.json, and failed.json.

The embedded broker forgets a message the moment a worker takes it, so the request is what a
worker resumes after a kill. Knows no queue and no step.
"""

import errno
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.documents import Document, read_document, write_document
from casebook.errors import AngioloopError, StateError
from casebook.home import Home
from casebook.rounds import RoundFolder

REQUEST = "request.json"
FAILED = "failed.json"
SYSTEM_EXIT = 74
"""The exit code of a refusal by the system, as of other commands. Source: BSD sysexits.h."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_log = logging.getLogger(__name__)
MAX_RESUMPTIONS = 3
"""A step that lost its worker this often in a row is not tried again."""


class Request(Document):
    """Steps asked for, in order, and those done."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    steps: tuple[str, ...]
    done: tuple[str, ...] = ()
    conf: str
    """Folder of round-NN.yaml."""
    overrides: tuple[str, ...] = ()
    """`a.b=value` over the configuration file."""
    resumed: int = 0
    """Times a worker found it unfinished since the last finished step."""
    at: datetime

    @property
    def left(self) -> tuple[str, ...]:
        """Steps still to do, in order."""
        return tuple(step for step in self.steps if step not in self.done)


class Failure(Document):
    """Why a step stopped, for whoever follows."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    step: str
    message: str
    kind: str
    """Class of the error."""
    exit_code: int
    at: datetime


class StepFailedError(AngioloopError):
    """A step failed in the worker; carries the exit code of the error there."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.step}: {failure.message}")
        self.exit_code = failure.exit_code  # type: ignore[misc] # one per failure, not per class


def ask(
    folder: RoundFolder, steps: tuple[str, ...], conf: Path, overrides: tuple[str, ...]
) -> Request:
    """Write the request for some steps, and forget an earlier failure."""
    folder.file(FAILED).unlink(missing_ok=True)
    where = str(conf.resolve())
    request = Request(steps=steps, conf=where, overrides=overrides, at=datetime.now(UTC))
    write(folder, request)
    return request


def write(folder: RoundFolder, request: Request) -> None:
    """Replace the round's request."""
    write_document(folder.file(REQUEST), request)


def pending(folder: RoundFolder) -> Request | None:
    """What the round still waits for, when it does."""
    try:
        return read_document(folder.file(REQUEST), Request)
    except StateError:  # not there, or gone this moment
        return None


def begin(folder: RoundFolder, step: str, conf: Path, overrides: tuple[str, ...]) -> None:
    """Note that a worker has taken a step, unless the request names it already."""
    request = pending(folder)
    if request is None or step not in request.left:
        ask(folder, (step, *(request.left if request else ())), conf, overrides)


def finish(folder: RoundFolder, step: str) -> None:
    """Note that a step is done; the request goes with its last step."""
    request = pending(folder)
    if request is None:
        return
    changed = request.with_(done=(*request.done, step), resumed=0)
    if changed.left:
        write(folder, changed)
    else:
        folder.file(REQUEST).unlink(missing_ok=True)


def fail(folder: RoundFolder, step: str, problem: BaseException) -> None:
    """Write why a step failed and drop the request, also where nothing can be written any more."""
    found = Failure(
        step=step,
        message=_said(folder, problem),
        kind=type(problem).__name__,
        exit_code=_exit_code(problem),
        at=datetime.now(UTC),
    )
    try:
        write_document(folder.file(FAILED), found)
    except OSError as refused:
        _log.error("round %02d: %s cannot be written: %s", folder.number, FAILED, refused)
    finally:
        folder.file(REQUEST).unlink(missing_ok=True)


def _said(folder: RoundFolder, problem: BaseException) -> str:
    """What a follower is told."""
    if isinstance(problem, AngioloopError):
        return str(problem)
    if isinstance(problem, OSError) and problem.errno in _NO_ROOM:
        free_mb = shutil.disk_usage(folder.home.root).free / 1e6
        where = f"{problem.filename}: " if problem.filename else ""
        return (
            f"{where}{problem.strerror} ({free_mb:.0f} MB are free under {folder.home.root}). Make "
            "room (`trainer prune --dry-run` shows what may go) and run the same command again; "
            "finished steps and the last checkpoint are kept"
        )
    return f"{type(problem).__name__}: {problem}"


def _exit_code(problem: BaseException) -> int:
    if isinstance(problem, AngioloopError):
        return problem.exit_code
    return SYSTEM_EXIT if isinstance(problem, OSError) else 1


def failure(folder: RoundFolder) -> Failure | None:
    """The failure of the last attempt, when there was one."""
    try:
        return read_document(folder.file(FAILED), Failure)
    except StateError:  # not there, or gone this moment
        return None


def round_folders(home: Home) -> list[RoundFolder]:
    """The rounds of a workspace, by number."""
    found = [
        RoundFolder(home, int(path.name))
        for path in (home.root / "rounds").glob("[0-9]*")
        if path.is_dir() and path.name.isdigit()
    ]
    return sorted(found, key=lambda folder: folder.number)


def unfinished(home: Home) -> list[tuple[RoundFolder, Request]]:
    """Every round with a request that a worker left behind."""
    return [
        (folder, request)
        for folder in round_folders(home)
        if (request := pending(folder)) is not None
    ]
