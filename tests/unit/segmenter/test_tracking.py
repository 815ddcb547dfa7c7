from pathlib import Path

import numpy as np
import pytest
import torch

from casebook.errors import PromptError
from casebook.protocols import Frame, Tracker
from segmenter.teacher import load_teacher
from segmenter.tracking import MemoryTracker


@pytest.fixture
def tracker(base: Path) -> MemoryTracker:
    teacher = load_teacher(base.parent, None, base=base)
    # Random weights see no object anywhere, and a lost object's mask is empty.
    head = teacher.model.tracker.sam_mask_decoder.pred_obj_score_head
    with torch.no_grad():
        head.layers[-1].bias.fill_(10.0)
    return MemoryTracker(teacher)


def frame(seed: int) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 255, (96, 80)).astype(np.uint8))


def bar() -> np.ndarray:
    bitmap = np.zeros((96, 80), dtype=bool)
    bitmap[40:50, 20:60] = True
    return bitmap


def test_a_walk_gives_a_mask_for_every_frame(tracker: MemoryTracker) -> None:
    assert isinstance(tracker, Tracker)
    memory = tracker.start(frame(0), bar())
    for position in range(1, 12):
        memory, found = tracker.step(memory, frame(position))
        assert found.bitmap.shape == (96, 80)
        assert 0 <= found.score <= 1
        assert memory.index == position
    # The model attends to the given frame and a bounded number of frames before.
    assert set(memory.given) == {0}
    assert len(memory.found) <= 7


def test_what_was_remembered_changes_the_answer(tracker: MemoryTracker) -> None:
    other = np.zeros_like(bar())
    other[42:48, 22:58] = True
    answers = []
    for bitmap in (bar(), other):
        _, found = tracker.step(tracker.start(frame(0), bitmap), frame(1))
        assert found.logits is not None
        answers.append(found.logits)
    assert not np.array_equal(*answers)


def test_a_step_does_not_change_the_memory_it_came_from(tracker: MemoryTracker) -> None:
    memory = tracker.start(frame(0), bar())
    _, once = tracker.step(memory, frame(1))
    _, again = tracker.step(memory, frame(1))
    assert np.array_equal(once.bitmap, again.bitmap)
    assert once.score == again.score


def test_what_cannot_be_followed_is_refused(tracker: MemoryTracker) -> None:
    with pytest.raises(PromptError, match="empty"):
        tracker.start(frame(0), np.zeros((96, 80), dtype=bool))
    with pytest.raises(PromptError, match="px, the frame"):
        tracker.start(frame(0), np.ones((4, 4), dtype=bool))
    with pytest.raises(PromptError, match="start tracking again"):
        tracker.step("nothing", frame(1))
