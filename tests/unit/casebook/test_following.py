"""Following a mask with a model that has no memory."""

import numpy as np

from casebook.following import Follower
from casebook.protocols import Frame, Tracker
from tests.fakes.threshold_model import ThresholdSegmenter


def frame_at(x: int) -> Frame:
    pixels = np.full((40, 80), 200, dtype=np.uint8)
    pixels[15:25, x : x + 12] = 40
    return Frame(pixels)


def test_a_follower_is_a_tracker() -> None:
    assert isinstance(Follower(ThresholdSegmenter()), Tracker)


def test_a_moving_object_is_followed() -> None:
    follower = Follower(ThresholdSegmenter())
    memory: object = follower.start(frame_at(10), frame_at(10).pixels < 100)
    for x in (12, 14, 17, 20):
        memory, found = follower.step(memory, frame_at(x))
        assert np.array_equal(found.bitmap, frame_at(x).pixels < 100)
        assert 0.5 < found.score <= 1


def test_a_vanished_object_scores_nothing_and_is_found_again() -> None:
    follower = Follower(ThresholdSegmenter())
    memory: object = follower.start(frame_at(10), frame_at(10).pixels < 100)
    memory, lost = follower.step(memory, Frame(np.full((40, 80), 200, dtype=np.uint8)))
    assert (lost.score, lost.bitmap.any()) == (0.0, False)
    memory, found = follower.step(memory, frame_at(11))
    assert found.bitmap.any()
