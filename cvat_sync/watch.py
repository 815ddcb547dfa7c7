"""Watches a pushed round: pulls it when enough is completed, then has it trained.

Every look asks CVAT how things stand; what was begun is on disk, so a watch that is killed goes on
where it was. Knows neither webhooks nor the command line.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.documents import Document, read_document, write_document
from casebook.errors import AngioloopError, BusyError
from casebook.home import Home, locked
from casebook.rounds import Event, RoundFolder
from cvat_sync import dispatch
from cvat_sync.boxes import answered, drawn_boxes, give_back
from cvat_sync.cines import n_cases
from cvat_sync.pull import is_complete, list_jobs, pull
from cvat_sync.pulled import PulledJob
from cvat_sync.pushed import Pushed, need_pushed
from cvat_sync.remote import RemoteLabel, Server
from cvat_sync.settings import ExchangeConfig

STATE = "watch.json"
SAFETY_S = 900.0
"""CVAT does not repeat a delivery nobody took, so a look is taken this often anyway."""
_RETRY_S = 15.0
_RETRY_MAX_S = 600.0
_log = logging.getLogger(__name__)

Stage = Literal["pulling", "training", "done", "failed"]


class WatchState(Document):
    """What a watch has begun in a round."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int = Field(ge=1)
    stage: Stage
    problem: str | None = None
    """Why the training failed."""
    at: datetime


class Sight(Document):
    """How things stood at the last look."""

    round: int | None = None
    """The round watched, if any is pushed."""
    stage: Literal["idle", "waiting", "pulled by hand", "pulling", "training", "done", "failed"]
    completed: int = 0
    """Cases of completed jobs."""
    needed: int = 0
    """Completed cases that start the pull."""
    problem: str | None = None
    """What stands in the way, and what to do."""
    at: datetime


@dataclass(frozen=True)
class Place:
    """Where a watch works and with what settings."""

    home: Home
    conf: Path
    config: ExchangeConfig
    number: int | None = None
    """The round to watch; by default the last one that was pushed."""


def watched(home: Home, number: int | None) -> RoundFolder | None:
    """The round to watch: the one named, else the last one that was pushed."""
    if number is not None:
        return RoundFolder(home, number)
    pushed = [
        int(path.parent.name)
        for path in (home.root / "rounds").glob("[0-9]*/pushed.json")
        if path.parent.name.isdigit()
    ]
    return RoundFolder(home, max(pushed)) if pushed else None


def tasks_by_project(home: Home, number: int | None) -> dict[int, frozenset[int]]:
    """The tasks of the watched round by project."""
    folder = watched(home, number)
    if folder is None or not folder.has("pushed.json"):
        return {}
    pushed = need_pushed(folder)
    return {pushed.project_id: frozenset(task.task_id for task in pushed.tasks)}


class Watch:
    """One round watched by one thread: looks when nudged, and at least every `poll_s`."""

    def __init__(
        self,
        place: Place,
        connect: Callable[[], AbstractContextManager[Server]],
        *,
        poll_s: float = SAFETY_S,
        request: Callable[..., None] = dispatch.request,
    ) -> None:
        self._place, self._connect, self._request = place, connect, request
        self._poll_s = poll_s
        self._nudged, self._stopped = threading.Event(), threading.Event()
        self._sight = Sight(stage="idle", at=datetime.now(UTC))
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    @property
    def sight(self) -> Sight:
        """How things stood at the last look."""
        return self._sight

    @property
    def is_alive(self) -> bool:
        """Whether anybody still looks."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Look now, and from now on."""
        self._thread.start()

    def nudge(self) -> None:
        """Something changed in CVAT: look soon."""
        self._nudged.set()

    def stop(self) -> None:
        """Look no more; what was begun is on disk and goes on at the next start."""
        self._stopped.set()
        self._nudged.set()

    def _work(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            self._nudged.clear()
            wait_s = self._poll_s
            try:
                self.look()
                failures = 0
            except AngioloopError as problem:
                _log.warning("watch: %s", problem)
                self._see(self._sight.stage, problem=str(problem))
                failures += 1
                if problem.transient:
                    wait_s = min(_RETRY_S * 2 ** (failures - 1), _RETRY_MAX_S, self._poll_s)
            self._nudged.wait(timeout=wait_s)

    def look(self) -> Sight:
        """Ask CVAT how the round stands, and do what is due.

        Raises:
            AngioloopError: what was due could not be done; the next look tries again.
        """
        folder = watched(self._place.home, self._place.number)
        if folder is None or not folder.has("pushed.json"):
            return self._see("idle", folder=folder)
        state = _read_state(folder)
        if not folder.has("annotations.coco.json"):
            if not self._pull(folder):
                return self._sight
            state = _read_state(folder)
        if state is None:
            return self._see("pulled by hand", folder=folder)
        if state.stage in {"done", "failed"}:
            return self._see(state.stage, folder=folder, problem=state.problem)
        if self._place.config.watch.train:
            return self._train(folder)
        _write_state(folder, "done")
        return self._see("done", folder=folder)

    def _pull(self, folder: RoundFolder) -> bool:
        """Pull the round if enough is completed; whether it was."""
        config, pushed = self._place.config, need_pushed(folder)
        with self._connect() as gateway:
            jobs = list_jobs(gateway, pushed, config.parallel)
            frames = {task.task_id: task.frames for task in pushed.tasks}
            total = n_cases(name for names in frames.values() for name in names)
            completed = n_cases(
                name
                for job in jobs
                if is_complete(job)
                for name in frames[job.task_id][job.start_frame : job.stop_frame + 1]
            )
            needed = min(config.watch.min_cases or total, total)
            is_whole = all(map(is_complete, jobs))
            if completed < needed and not is_whole:
                self._see("waiting", folder=folder, completed=completed, needed=needed)
                return False
            self._see("pulling", folder=folder, completed=completed, needed=needed)
            self._pull_now(folder, pushed, gateway, is_whole=is_whole)
        return True

    def _pull_now(
        self, folder: RoundFolder, pushed: Pushed, gateway: Server, *, is_whole: bool
    ) -> None:
        with locked(folder.file(".pull.lock"), f"a pull of round {folder.number:02d}"):
            if folder.has("annotations.coco.json"):  # somebody was faster
                return
            _write_state(folder, "pulling")

            def to_masks(
                jobs: Sequence[PulledJob], labels: Sequence[RemoteLabel]
            ) -> tuple[int, ...]:
                found = drawn_boxes(pushed, folder.manifest().labels, jobs)
                known = answered(folder, found, lambda name: self._ask(folder, {"boxes": name}))
                return give_back(gateway, found, known, labels)

            result = pull(
                folder,
                pushed,
                gateway,
                parallel=self._place.config.parallel,
                allow_incomplete=not is_whole,
                give_back=to_masks,
            )
        for line in (*result.told, *result.refused):
            _log.warning("watch: round %02d: %s", folder.number, line)
        _log.info("watch: round %02d is pulled", folder.number)

    def _ask(self, folder: RoundFolder, steps: Mapping[str, str]) -> None:
        self._request(folder, steps, self._place.conf, _show)

    def _train(self, folder: RoundFolder) -> Sight:
        _check_alone(folder)
        _write_state(folder, "training")
        self._see("training", folder=folder)
        try:
            self._ask(folder, dispatch.TRAINING)
        except dispatch.RequestedStepError as problem:
            advice = f"{problem}. Then run `make train ROUND={folder.number}`"
            _write_state(folder, "failed", advice)
            return self._see("failed", folder=folder, problem=advice)
        _write_state(folder, "done")
        _log.info("watch: round %02d is trained", folder.number)
        return self._see("done", folder=folder)

    def _see(
        self,
        stage: str,
        *,
        folder: RoundFolder | None = None,
        completed: int | None = None,
        needed: int | None = None,
        problem: str | None = None,
    ) -> Sight:
        before = self._sight
        self._sight = Sight.model_validate(
            {
                "round": folder.number if folder else before.round,
                "stage": stage,
                "completed": before.completed if completed is None else completed,
                "needed": before.needed if needed is None else needed,
                "problem": problem,
                "at": datetime.now(UTC),
            }
        )
        return self._sight


def _check_alone(folder: RoundFolder) -> None:
    """Refuse to train while another round is worked on: rounds go on from one another.

    Raises:
        BusyError: one is; transient, so that the watch looks again soon.
    """
    for path in sorted((folder.home.root / "rounds").glob("[0-9]*/request.json")):
        other = path.parent.name
        if other != folder.path.name:
            raise BusyError(
                f"round {other} is being worked on; round {folder.number:02d} is trained after it. "
                f"If nobody is at it, `make train ROUND={int(other)}` goes on with it"
            )


def _read_state(folder: RoundFolder) -> WatchState | None:
    return read_document(folder.file(STATE), WatchState) if folder.has(STATE) else None


def _write_state(folder: RoundFolder, stage: Stage, problem: str | None = None) -> None:
    state = WatchState(round=folder.number, stage=stage, problem=problem, at=datetime.now(UTC))
    write_document(folder.file(STATE), state)


def _show(event: Event) -> None:
    _log.info("watch: %s %s", event.step, event.message)
