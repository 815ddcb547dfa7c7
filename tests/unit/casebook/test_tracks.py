"""The memory behind tracker states: bounded, ageing, never guessable."""

import pytest

from casebook.errors import TrackerStateError
from casebook.tracks import Track, TrackStore
from casebook.wire import TrackedShape
from tests.fakes.threshold_model import ThresholdTracker

BOX = TrackedShape(type="rectangle", points=(1.0, 2.0, 3.0, 4.0))


def track(memory: str = "m") -> Track:
    return Track(ThresholdTracker(), "model", memory, (8, 9), BOX)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_key_finds_its_track_again() -> None:
    store = TrackStore()
    key, other = store.keep(track("a")), store.keep(track("b"))
    assert store.find(key, (8, 9)).memory == "a"
    assert key != other
    assert len(key) >= 24


def test_an_unknown_key_is_a_conflict() -> None:
    with pytest.raises(TrackerStateError, match="unknown or expired") as caught:
        TrackStore().find("guess", (8, 9))
    assert caught.value.http_status == 409


def test_a_track_belongs_to_images_of_its_size() -> None:
    store = TrackStore()
    with pytest.raises(TrackerStateError, match="9×8 px images, this one has 8×9"):
        store.find(store.keep(track()), (9, 8))


def test_a_track_expires_and_use_refreshes_it() -> None:
    clock = Clock()
    store = TrackStore(max_age_s=100.0, clock_s=clock)
    used, idle = store.keep(track()), store.keep(track())
    clock.now_s = 90.0
    store.find(used, (8, 9))
    clock.now_s = 150.0
    assert store.find(used, (8, 9)).memory == "m"
    with pytest.raises(TrackerStateError):
        store.find(idle, (8, 9))
    assert len(store) == 1


def test_the_oldest_tracks_are_forgotten_first() -> None:
    store = TrackStore(max_states=2)
    first = store.keep(track())
    second = store.keep(track())
    store.find(first, (8, 9))
    store.keep(track())
    assert store.find(first, (8, 9))
    with pytest.raises(TrackerStateError):
        store.find(second, (8, 9))
