"""The Celery tasks by name: each runs one step under the round's lock and says how it went.

Importing this loads torch; only the worker does.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from celery import Task
from celery.exceptions import Ignore

from casebook.errors import BusyError
from casebook.home import Home, locked
from casebook.rounds import RoundFolder
from trainer import cancellation, requests
from trainer.app import app
from trainer.boxes import boxes
from trainer.cancellation import CancelledError
from trainer.control import control
from trainer.decide import decide, promote
from trainer.distil import distil
from trainer.evaluate import evaluate
from trainer.leftovers import sweep
from trainer.propagate import propagate
from trainer.propose import propose
from trainer.report import report
from trainer.select import select
from trainer.specialists import specialists
from trainer.train import train
from trainer.work import Work

STEPS: dict[str, Callable[[Work], str]] = {
    "select": select,
    "propose": propose,
    "boxes": boxes,
    "train": train,
    "evaluate": evaluate,
    "decide": decide,
    "promote": promote,
    "report": report,
    "control": control,
    "specialists": specialists,
    "distil": distil,
    "propagate": propagate,
}
"""Each does its work once and returns one line on what came out."""
LOCK_WAIT_S = 5.0
_RETRY_S = 5.0
_RETRIES = 8640
_log = logging.getLogger(__name__)


def run_step(step: str, work: Work, asked: datetime | None = None) -> None:
    """Run one step of a round, noting its beginning, its end or its failure.

    Args:
        asked: When the request was made that the step belongs to, if one was.

    Raises:
        BusyError: another worker holds the round.
        CancelledError: the request was called off.
    """
    folder = work.folder
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.file(".lock"), f"round {folder.number:02d}", timeout_s=LOCK_WAIT_S):
        if asked is not None and cancellation.is_cancelled(folder, asked):
            raise cancellation.close(folder) or cancellation.error(folder)
        sweep(folder)
        try:
            requests.begin(folder, step, work.conf, work.overrides)
            folder.event(step, "started", 0.0)
            folder.event(step, STEPS[step](work), 1.0)
            requests.finish(folder, step)
        except CancelledError:
            folder.event(step, "called off")
            cancellation.close(folder)
            raise
        except Exception as problem:
            _log.exception("round %02d: %s failed", folder.number, step)
            requests.fail(folder, step, problem)
            with suppress(OSError):  # of a full disk, which the step has told
                folder.event(step, f"failed: {problem}")
            raise


def _register(step: str) -> Task:
    def task(
        self: Task,
        *,
        round: int,
        home: str,
        conf: str,
        overrides: list[str] | None = None,
        asked: str | None = None,
    ) -> None:
        folder = RoundFolder(Home(Path(home)), round)
        work = Work(folder, Path(conf), tuple(overrides or ()))
        try:
            run_step(step, work, None if asked is None else datetime.fromisoformat(asked))
        except CancelledError as problem:
            _log.info("%s", problem)
            raise Ignore from problem  # acknowledged, and the steps after it are not queued
        except BusyError as problem:
            raise self.retry(exc=problem, countdown=_RETRY_S) from problem

    task.__doc__ = f"The step {step} of a round."
    registered: Task = app.task(
        shared=False, name=f"angioloop.{step}", bind=True, max_retries=_RETRIES
    )(task)
    return registered


TASKS = {step: _register(step) for step in STEPS}
"""The registered tasks by step."""
