"""Asks a worker for the steps of a round, by task name, and waits for the files they write.

Knows the names of tasks, nothing of what they do.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from celery import Celery
from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict

from casebook.documents import Document, read_document
from casebook.embedded import ensure_worker
from casebook.errors import AngioloopError, UnreachableError
from casebook.rounds import Event, RoundFolder

STEPS = {"select": "manifest.json", "propose": "proposals.coco.json"}
"""Steps before a push, in order, and the file each writes."""
TRAINING = {
    "train": "candidate.json",
    "evaluate": "evaluation.json",
    "decide": "decision.json",
    "promote": "promotion.json",
    "report": "report.json",
}
"""Steps after a pull, as `trainer train` runs them."""
PROPAGATION = {"propagate": "tracked.coco.json"}
"""The step that carries corrected masks through their cines."""
POLL_S = 0.3
_WORKER_CHECK_S = 2.0
_ANSWER_S = 10.0
"""How long a worker of one's own broker may take to say that it is there."""
_REQUEST, _FAILED = "request.json", "failed.json"

Show = Callable[[Event], None]


class _Failure(BaseModel):
    """The part of a worker's failed.json that a user needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    step: str
    message: str
    exit_code: int = 1


class RequestedStepError(AngioloopError):
    """The worker could not do what was asked; carries the exit code of the error there."""

    def __init__(self, failure: _Failure) -> None:
        super().__init__(f"{failure.step}: {failure.message}")
        self.exit_code = failure.exit_code  # type: ignore[misc] # one per failure, not per class


class Asking(Document):
    """What a worker would be asked for before anything can be planned."""

    round: int
    steps: tuple[str, ...]

    def lines(self) -> tuple[str, ...]:
        """The steps in words."""
        asked = " and ".join(self.steps)
        return (f"round {self.round:02d}: would ask a worker to {asked}, then plan",)


def missing_steps(folder: RoundFolder) -> tuple[str, ...]:
    """Steps before a push whose file is not there."""
    return tuple(step for step, name in STEPS.items() if not folder.has(name))


def _app(folder: RoundFolder) -> Celery:
    home = folder.home
    if home.embedded:
        home.queue.mkdir(parents=True, exist_ok=True)
    app = Celery("angioloop", broker=home.broker_url)
    app.conf.update(task_serializer="json", accept_content=["json"], task_ignore_result=True)
    return app


def _send(app: Celery, folder: RoundFolder, step: str, conf: Path) -> None:
    where = {"round": folder.number, "home": str(folder.home.root), "conf": str(conf.resolve())}
    try:
        app.send_task(f"angioloop.{step}", kwargs=where, retry=False)
    except (OperationalError, OSError) as problem:
        raise UnreachableError(
            f"the queue at {_safe(folder.home.broker_url)} does not answer ({problem}); start it, "
            "or unset ANGIOLOOP_BROKER to use the embedded one"
        ) from None


def _safe(url: str) -> str:
    """A broker's address without its password."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _check_workers(app: Celery, folder: RoundFolder) -> None:
    """Refuse to wait for a worker that is not there.

    Raises:
        UnreachableError: nobody answers on the broker within 10 s.
    """
    try:
        if app.control.ping(timeout=_ANSWER_S, limit=1):
            return
    except (OperationalError, OSError) as problem:
        raise UnreachableError(
            f"the queue at {_safe(folder.home.broker_url)} does not answer ({problem}); start it"
        ) from None
    raise UnreachableError(
        f"no worker answers on {_safe(folder.home.broker_url)} within {_ANSWER_S:.0f} s; "
        "start one with `python -m trainer.worker`"
    )


def request_steps(folder: RoundFolder, conf: Path, show: Show) -> None:
    """Have the missing files before a push made, and wait for them, showing progress.

    Raises:
        UnreachableError: the queue does not answer, or has no worker.
        RequestedStepError: the worker says why it could not.
    """
    request(folder, STEPS, conf, show)


def request(folder: RoundFolder, steps: Mapping[str, str], conf: Path, show: Show) -> None:
    """Have the missing files of some steps made, in order, and wait, showing progress.

    Asking again for a step that is queued or done changes nothing, so whoever dies while waiting
    simply asks again.

    Raises:
        UnreachableError: the queue does not answer, or has no worker.
        RequestedStepError: the worker says why it could not.
    """
    app = _app(folder)
    try:
        if not folder.home.embedded:
            _check_workers(app, folder)
        for step, name in steps.items():
            if folder.has(name):
                continue
            folder.file(_FAILED).unlink(missing_ok=True)
            seen = len(folder.events())
            _send(app, folder, step, conf)
            ensure_worker(folder.home)
            _await(app, folder, step, name, conf, show, seen)
    finally:
        app.close()


def _await(
    app: Celery, folder: RoundFolder, step: str, name: str, conf: Path, show: Show, seen: int
) -> None:
    checked = time.monotonic()
    while True:
        is_there = folder.has(name)
        if folder.file(_FAILED).exists():
            raise RequestedStepError(read_document(folder.file(_FAILED), _Failure))
        for event in folder.events()[seen:]:
            show(event)
            seen += 1
        if is_there:
            return
        if time.monotonic() - checked > _WORKER_CHECK_S:
            # The embedded queue forgets a message once taken. A worker that dies later finds its
            # request on disk; one that died before writing it must be asked again.
            if ensure_worker(folder.home) and not folder.file(_REQUEST).exists():
                _send(app, folder, step, conf)
            checked = time.monotonic()
        time.sleep(POLL_S)
