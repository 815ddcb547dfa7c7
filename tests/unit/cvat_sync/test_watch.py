"""What a watch does at each look, and after it was killed in between."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from casebook.documents import write_document
from casebook.errors import BusyError, DataError, UnreachableError
from casebook.home import locked
from casebook.rounds import RoundFolder
from cvat_sync import dispatch
from cvat_sync.dispatch import RequestedStepError
from cvat_sync.settings import ExchangeConfig, WatchConfig
from cvat_sync.watch import Place, Watch, tasks_by_project, watched
from tests.fakes.cvat_memory import MemoryCvat, pushed_round
from tests.fakes.cvat_round import make_round
from trainer.chain import STEP_FILES
from trainer.chain import TRAINING as STEPS


class Trainer:
    """Stands where the queue is; remembers what it was asked for, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.asked: list[int] = []
        self.failure = failure

    def __call__(self, folder: RoundFolder, steps: object, conf: Path, show: object) -> None:
        if steps != dispatch.TRAINING:
            raise UnreachableError(f"asked for {steps}")
        self.asked.append(folder.number)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    return make_round(tmp_path)


@pytest.fixture
def cvat(folder: RoundFolder) -> MemoryCvat:
    found = MemoryCvat(folder)
    write_document(folder.file("pushed.json"), pushed_round(folder, found))
    return found


def watch_of(folder: RoundFolder, cvat: MemoryCvat, trainer: Trainer, **settings: Any) -> Watch:
    @contextmanager
    def connect() -> Iterator[MemoryCvat]:
        yield cvat

    config = ExchangeConfig(watch=WatchConfig(**settings))
    return Watch(Place(folder.home, folder.home.root, config), connect, request=trainer)


def test_the_steps_are_the_trainers() -> None:
    assert {step: STEP_FILES[step] for step in STEPS} == dispatch.TRAINING


def test_without_a_pushed_round_there_is_nothing_to_do(folder: RoundFolder) -> None:
    cvat = MemoryCvat(folder)
    assert watch_of(folder, cvat, Trainer()).look().stage == "idle"
    assert tasks_by_project(folder.home, None) == {}


def test_the_last_pushed_round_is_watched_unless_one_is_named(
    folder: RoundFolder, cvat: MemoryCvat
) -> None:
    found = watched(folder.home, None)
    assert found is not None
    assert found.number == 2
    assert watched(folder.home, 3) == RoundFolder(folder.home, 3)
    assert tasks_by_project(folder.home, None) == {cvat.project_id: frozenset(cvat.task_ids)}


def test_a_round_is_pulled_when_all_is_completed_then_trained_once(
    folder: RoundFolder, cvat: MemoryCvat
) -> None:
    trainer = Trainer()
    watch = watch_of(folder, cvat, trainer)
    cvat.complete(4)
    waiting = watch.look()
    assert (waiting.stage, waiting.completed, waiting.needed) == ("waiting", 4, 5)
    assert not folder.has("annotations.coco.json")
    cvat.complete(5)
    assert watch.look().stage == "done"
    assert folder.has("annotations.coco.json")
    assert watch.look().stage == "done"
    assert trainer.asked == [2]


def test_some_completed_cases_are_enough_when_told_so(
    folder: RoundFolder, cvat: MemoryCvat
) -> None:
    watch = watch_of(folder, cvat, Trainer(), min_cases=3)
    cvat.complete(2)
    assert watch.look().stage == "waiting"
    cvat.complete(3)
    assert watch.look().stage == "done"


def test_training_can_be_left_to_a_person(folder: RoundFolder, cvat: MemoryCvat) -> None:
    trainer = Trainer()
    cvat.complete(5)
    assert watch_of(folder, cvat, trainer, train=False).look().stage == "done"
    assert trainer.asked == []


def test_a_round_somebody_pulled_is_left_alone(folder: RoundFolder, cvat: MemoryCvat) -> None:
    trainer = Trainer()
    folder.file("annotations.coco.json").write_text("{}")
    assert watch_of(folder, cvat, trainer).look().stage == "pulled by hand"
    assert trainer.asked == []


@pytest.mark.parametrize("seconds", ["pull", "training"])
def test_a_watch_killed_on_its_way_goes_on_where_it_was(
    folder: RoundFolder, cvat: MemoryCvat, seconds: str
) -> None:
    cvat.complete(5)
    if seconds == "pull":
        cvat.failure_at = "job_annotations"
    killed = watch_of(folder, cvat, Trainer(KeyboardInterrupt()))  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        killed.look()
    cvat.failure_at = None
    trainer = Trainer()
    assert watch_of(folder, cvat, trainer).look().stage == "done"
    assert trainer.asked == [2]


def test_a_training_that_fails_is_told_and_not_repeated(
    folder: RoundFolder, cvat: MemoryCvat
) -> None:
    failure = dispatch._Failure(step="train", message="no gradient", exit_code=5)
    trainer = Trainer(RequestedStepError(failure))
    cvat.complete(5)
    watch = watch_of(folder, cvat, trainer)
    sight = watch.look()
    assert sight.stage == "failed"
    assert sight.problem == "train: no gradient. Then run `make train ROUND=2`"
    again = watch_of(folder, cvat, trainer).look()
    assert (again.stage, again.problem) == ("failed", sight.problem)
    assert trainer.asked == [2]


def test_a_queue_that_is_away_is_asked_again(folder: RoundFolder, cvat: MemoryCvat) -> None:
    trainer = Trainer(UnreachableError("the queue does not answer"))
    cvat.complete(5)
    watch = watch_of(folder, cvat, trainer)
    with pytest.raises(UnreachableError):
        watch.look()
    trainer.failure = None
    assert watch.look().stage == "done"


def test_two_never_pull_at_once(folder: RoundFolder, cvat: MemoryCvat) -> None:
    cvat.complete(5)
    with locked(folder.file(".pull.lock"), "a pull"), pytest.raises(BusyError):
        watch_of(folder, cvat, Trainer()).look()
    assert not folder.has("annotations.coco.json")


def test_two_rounds_are_never_trained_at_once(folder: RoundFolder, cvat: MemoryCvat) -> None:
    trainer = Trainer()
    cvat.complete(5)
    other = RoundFolder(folder.home, 1).file("request.json")
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text("{}")
    watch = watch_of(folder, cvat, trainer)
    with pytest.raises(BusyError, match="round 01 is being worked on; round 02 is trained after"):
        watch.look()
    assert folder.has("annotations.coco.json"), "what is finished is pulled all the same"
    assert trainer.asked == []
    # A request of the round itself is its own training, which a killed watch goes on with.
    folder.file("request.json").write_text("{}")
    other.unlink()
    assert watch.look().stage == "done"
    assert trainer.asked == [2]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param("task deleted", "is gone from CVAT", id="task deleted"),
        pytest.param("server gone", "nobody answers", id="server gone"),
    ],
)
def test_what_stands_in_the_way_is_seen_and_the_watch_lives_on(
    folder: RoundFolder, cvat: MemoryCvat, spoil: str, says: str
) -> None:
    cvat.complete(5)
    if spoil == "task deleted":
        cvat.deleted.add(cvat.task_ids[0])
    else:
        cvat.failure = UnreachableError("nobody answers")
    watch = watch_of(folder, cvat, Trainer())
    watch.start()
    until(lambda: watch.sight.problem is not None)
    assert says in str(watch.sight.problem)
    assert watch.is_alive
    cvat.failure = None
    cvat.deleted.clear()
    watch.nudge()
    until(lambda: watch.sight.stage == "done")
    assert watch.sight.problem is None
    watch.stop()
    until(lambda: not watch.is_alive)


def test_rectangles_are_asked_to_become_masks(folder: RoundFolder, cvat: MemoryCvat) -> None:
    cvat.complete(5)
    job_id = cvat.jobs(cvat.task_ids[0])[0].id
    (mask,) = cvat.drawn[job_id]
    box = replace(mask, type="rectangle", points=(4.0, 9.0, 35.0, 14.0), source="manual")
    cvat.drawn[job_id] = [box]
    with pytest.raises(UnreachableError, match=r"asked for .'boxes': "):
        watch_of(folder, cvat, Trainer()).look()


def test_damaged_masks_stop_the_pull_with_their_names(
    folder: RoundFolder, cvat: MemoryCvat
) -> None:
    cvat.complete(5)
    cvat.damage(0)
    with pytest.raises(DataError, match=r"case-000\.f00003\.png"):
        watch_of(folder, cvat, Trainer()).look()


def test_a_polling_watch_looks_without_being_nudged(folder: RoundFolder, cvat: MemoryCvat) -> None:
    @contextmanager
    def connect() -> Iterator[MemoryCvat]:
        yield cvat

    place = Place(folder.home, folder.home.root, ExchangeConfig())
    watch = Watch(place, connect, poll_s=0.02, request=Trainer())
    watch.start()
    until(lambda: watch.sight.stage == "waiting")
    cvat.complete(5)
    until(lambda: watch.sight.stage == "done")
    watch.stop()
