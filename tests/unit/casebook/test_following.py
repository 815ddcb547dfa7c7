"""Following a mask with a model that has no memory."""

import io

import numpy as np
import pytest

from casebook.errors import DataError
from casebook.following import Followed, Follower, memory_from_bytes, memory_to_bytes
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


@pytest.mark.parametrize("has_logits", [True, False])
def test_a_memory_goes_to_another_process_and_back(has_logits: bool) -> None:
    frame = frame_at(10)
    bitmap = frame.pixels < 100
    logits = np.linspace(-9e9, 9e9, bitmap.size, dtype=np.float32).reshape(bitmap.shape)
    back = memory_from_bytes(memory_to_bytes(Followed(bitmap, logits if has_logits else None)))
    assert np.array_equal(back.bitmap, bitmap)
    if not has_logits:
        assert back.logits is None
        return
    assert back.logits is not None
    assert np.array_equal(back.logits > 0, logits > 0)
    assert np.isfinite(back.logits).all()


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_damaged_memory_is_refused(cut: int) -> None:
    payload = memory_to_bytes(Followed(frame_at(10).pixels < 100, None))
    with pytest.raises(DataError, match="damaged; start from a shape again"):
        memory_from_bytes(payload[:cut])


def test_an_object_within_a_memory_is_never_unpickled() -> None:
    stream = io.BytesIO()
    np.savez(stream, hw=np.array([1, 8]), bits=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="damaged"):
        memory_from_bytes(stream.getvalue())
