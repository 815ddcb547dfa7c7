"""The worker process: `python -m trainer.worker --home DIR`.

One task at a time (one GPU slot). Embedded, it holds the workspace's worker lock as long as it
lives, first finishes what an earlier worker left behind, and leaves when idle. On a broker of your
own it puts what was left behind in the queue again: other workers may be nearer to it.
"""

import logging
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from celery import Celery, signals
from celery.worker import state

from casebook.errors import AngioloopError, BusyError
from casebook.home import Home, locked
from casebook.rounds import RoundFolder
from trainer import requests
from trainer.app import configured_app
from trainer.chain import send
from trainer.requests import MAX_RESUMPTIONS, Request, unfinished

AGAIN = "queued again by a worker that started"
WAITING = timedelta(minutes=1)
"""What was queued less than this ago waits its turn: several workers may start at once."""
_log = logging.getLogger(__name__)


class IdleClock:
    """Stops a worker that has had no task for a while."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._busy = False
        self._since = time.monotonic()

    def start(self) -> None:
        """Watch from now on; a limit of 0 never stops the worker."""
        signals.task_prerun.connect(self._on_begin, weak=False)
        signals.task_postrun.connect(self._on_end, weak=False)
        self._since = time.monotonic()
        if self._limit_s > 0:
            threading.Thread(target=self._watch, name="idle-clock", daemon=True).start()

    def _on_begin(self, **_: object) -> None:
        self._busy = True

    def _on_end(self, **_: object) -> None:
        self._busy = False
        self._since = time.monotonic()

    def _watch(self) -> None:
        while self._busy or time.monotonic() - self._since < self._limit_s:
            time.sleep(min(0.5, self._limit_s / 4))
        _log.info("idle for %.0f s: leaving", self._limit_s)
        state.should_stop = 0


def resume(home: Home, found: Sequence[tuple[RoundFolder, Request]]) -> None:
    """Finish the steps that earlier workers left behind, round by round.

    They run here and now, before the queue is read: a step that is still queued may need them.
    """
    from trainer.tasks import TASKS

    for folder, request in found:
        now = requests.pending(folder)
        if now is None or now.at != request.at:  # called off or asked anew since
            continue
        if request.resumed >= MAX_RESUMPTIONS:
            _give_up(folder, request, str(home.queue / "worker.log"))
            continue
        requests.write(folder, request.with_(resumed=request.resumed + 1))
        _log.info("round %02d: resuming %s", folder.number, ", ".join(request.left))
        for step in request.left:
            result = TASKS[step].apply(
                kwargs={
                    "round": folder.number,
                    "home": str(home.root),
                    "conf": request.conf,
                    "overrides": list(request.overrides),
                    "asked": request.at.isoformat(),
                }
            )
            if not result.successful():
                break


def requeue(app: Celery, home: Home) -> None:
    """Queue again what no worker is at: its message may be lost, or wait for hours to come back.

    Steps are done once however often they are queued.
    """
    for folder, found in unfinished(home):
        try:
            with locked(folder.file(".lock"), f"round {folder.number:02d}"):
                request = requests.pending(folder)
                if request is None or request.at != found.at:  # done or asked anew since
                    continue
                told = [event for event in folder.events() if event.at >= request.at]
                last = told[-1].at if told else request.at
                is_waiting = not told or told[-1].message == AGAIN
                if is_waiting and datetime.now(UTC) - last < WAITING:
                    continue
                if not is_waiting and request.resumed >= MAX_RESUMPTIONS:
                    _give_up(folder, request, "the workers' logs")
                    continue
                if not is_waiting:  # begun, and whoever did is gone
                    request = request.with_(resumed=request.resumed + 1)
                    requests.write(folder, request)
                folder.event(request.left[0], AGAIN)
        except BusyError:  # a worker is at it, and queues the next step itself
            continue
        _log.info("round %02d: queueing again %s", folder.number, ", ".join(request.left))
        send(app, folder, request, retry=True)


def _give_up(folder: RoundFolder, request: Request, log: str) -> None:
    step = request.left[0]
    lost = AngioloopError(
        f"the worker died {request.resumed} times in a row during {step}; see {log}, then run the "
        "command again"
    )
    requests.fail(folder, step, lost)


def serve(app: Celery, idle_exit_s: float) -> int:
    """Work until idle or told to stop; the process's exit code."""
    clock = IdleClock(idle_exit_s)
    clock.start()
    worker = app.Worker(
        pool="solo",
        concurrency=1,
        loglevel="INFO",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    worker.start()
    return int(worker.exitcode or 0)


@click.command()
@click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
@click.option(
    "--idle-exit-s", type=float, default=0.0, show_default=True, help="Leave when idle; 0: never."
)
def main(home: Path | None, idle_exit_s: float) -> None:
    """Do what is queued for a workspace.

    Example: python -m trainer.worker --home workspace
    """
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    place = Home.resolve(home)
    # Listed before the lock is held: who asks later sees the lock and leaves it to the queue.
    left_behind = unfinished(place) if place.embedded else []
    with ExitStack() as held:
        try:
            if place.embedded:
                held.enter_context(locked(place.worker_lock, "a worker", timeout_s=3.0))
        except BusyError as problem:
            click.echo(str(problem), err=True)
            sys.exit(problem.exit_code)
        import trainer.tasks  # noqa: F401 - registers the tasks; loads torch once

        app = configured_app(place)
        if place.embedded:
            resume(place, left_behind)
        else:

            def on_ready(**_: object) -> None:
                requeue(app, place)

            signals.worker_ready.connect(on_ready, weak=False)
        sys.exit(serve(app, idle_exit_s))


if __name__ == "__main__":
    main()
