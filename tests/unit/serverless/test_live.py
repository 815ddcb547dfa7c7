"""The model in use changes between two requests, or not at all."""

import threading
from pathlib import Path

import pytest

from casebook.errors import ModelError
from casebook.handler import Handler
from casebook.labels import Label, LabelSet
from serverless.live import LiveModel
from tests.fakes.threshold_model import ThresholdSegmenter

LABELS = LabelSet(name="test", labels=(Label(name="vessel"),))


class Shelf:
    """A registry in memory: which models exist, which is in use, and how long loading takes."""

    def __init__(self, *models: str, promoted: str | None = None) -> None:
        self.models = set(models)
        self.promoted = promoted
        self.loads: list[str | None] = []
        self.lines: list[tuple[str, dict[str, str]]] = []
        self.open = threading.Event()
        self.open.set()
        self.now_s = 0.0
        self.unreadable = ""

    def pointer(self) -> str | None:
        if self.unreadable:
            raise ModelError(self.unreadable)
        return self.promoted

    def load(self, model_id: str | None) -> Handler:
        self.loads.append(model_id)
        assert self.open.wait(10)
        if model_id is not None and model_id not in self.models:
            raise ModelError(f"model {model_id} is damaged; restore it")
        return Handler(ThresholdSegmenter(model_id or "base"), LABELS)

    def live(self) -> LiveModel:
        return LiveModel(
            self.pointer,
            self.load,
            lambda message, fields: self.lines.append((message, fields)),
            retry_s=10.0,
            clock_s=lambda: self.now_s,
        )


def test_without_a_promoted_model_the_bare_base_serves() -> None:
    live = Shelf().live()
    assert live.handler().model_id == "base"


def test_a_promotion_is_served_without_a_restart() -> None:
    shelf = Shelf("a", "b", promoted="a")
    live = shelf.live()
    assert live.handler().model_id == "a"
    shelf.promoted = "b"
    live.handler()
    live.settle()
    assert live.handler().model_id == "b"
    assert shelf.loads == ["a", "b"]
    assert shelf.lines[-1] == ("model in use", {"model": "b"})


def test_the_old_model_answers_while_the_new_one_loads_once() -> None:
    shelf = Shelf("a", "b", promoted="a")
    live = shelf.live()
    shelf.open.clear()
    shelf.promoted = "b"
    assert [live.handler().model_id for _ in range(5)] == ["a"] * 5
    shelf.open.set()
    live.settle()
    assert live.handler().model_id == "b"
    assert shelf.loads == ["a", "b"]


def test_a_damaged_model_is_refused_and_the_old_one_serves_on() -> None:
    shelf = Shelf("a", promoted="a")
    live = shelf.live()
    shelf.promoted = "half-copied"
    for _ in range(3):
        live.handler()
        live.settle()
    assert live.handler().model_id == "a"
    assert shelf.loads == ["a", "half-copied"]
    message, fields = shelf.lines[-1]
    assert "serves on" in message
    assert fields["reason"] == "model half-copied is damaged; restore it"


def test_a_refused_model_is_tried_again_later() -> None:
    shelf = Shelf("a", promoted="a")
    live = shelf.live()
    shelf.promoted = "late"
    live.handler()
    live.settle()
    shelf.models.add("late")
    live.handler()
    live.settle()
    assert live.handler().model_id == "a"
    shelf.now_s = 10.0
    live.handler()
    live.settle()
    assert live.handler().model_id == "late"


def test_going_back_to_the_model_in_use_needs_no_loading() -> None:
    shelf = Shelf("a", promoted="a")
    live = shelf.live()
    shelf.promoted = "gone"
    live.handler()
    live.settle()
    shelf.promoted = "a"
    assert live.handler().model_id == "a"
    assert shelf.loads == ["a", "gone"]


def test_an_unreadable_pointer_leaves_the_model_in_use_and_is_logged_once() -> None:
    shelf = Shelf("a", promoted="a")
    live = shelf.live()
    shelf.unreadable = "promoted holds '???'"
    assert [live.handler().model_id for _ in range(3)] == ["a"] * 3
    assert len([line for line in shelf.lines if "pointer" in line[0]]) == 1
    shelf.unreadable = ""
    assert live.handler().model_id == "a"


def test_with_no_model_at_all_the_reason_is_given_until_one_loads() -> None:
    shelf = Shelf(promoted="a")
    live = shelf.live()
    with pytest.raises(ModelError, match="no model to answer with: model a is damaged") as caught:
        live.handler()
    assert caught.value.http_status == 503
    shelf.models.add("a")
    shelf.now_s = 20.0
    with pytest.raises(ModelError):
        live.handler()
    live.settle()
    assert live.handler().model_id == "a"


def test_an_unreadable_pointer_at_the_start_is_the_reason_given() -> None:
    shelf = Shelf("a", promoted="a")
    shelf.unreadable = "promoted holds '???'"
    live = shelf.live()
    with pytest.raises(ModelError, match=r"promoted holds '\?\?\?'"):
        live.handler()
    assert shelf.loads == []
    shelf.unreadable = ""
    with pytest.raises(ModelError):
        live.handler()
    live.settle()
    assert live.handler().model_id == "a"


def test_every_request_gets_one_whole_model_while_promotions_happen() -> None:
    shelf = Shelf("a", "b", promoted="a")
    live = shelf.live()
    seen: list[str] = []

    def ask() -> None:
        for _ in range(200):
            seen.append(live.handler().model_id)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for model_id in "babab":
        shelf.promoted = model_id
    for thread in threads:
        thread.join()
    assert len(seen) == 800
    assert set(seen) <= {"a", "b"}
    live.settle()
    live.handler()
    live.settle()
    assert live.handler().model_id == "b"


def test_the_clock_is_the_machines_by_default(tmp_path: Path) -> None:
    live = LiveModel(lambda: None, Shelf().load, lambda message, fields: None)
    assert live.handler().model_id == "base"
