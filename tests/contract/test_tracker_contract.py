"""What every Tracker keeps: a mask and a score for each frame, memories that steps do not change.

One suite for all of them: following with the tiny SAM 3, its own memory, and SAM 2's memory; all
with small random weights.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from casebook.errors import PromptError
from casebook.following import Follower
from casebook.members import tracker_of
from casebook.protocols import Frame, Tracker
from segmenter.sam2_weights import open_sam2
from segmenter.sam3 import SMALLEST, build
from segmenter.teacher import Teacher, load_teacher
from segmenter.tracking import MemoryTracker
from segmenter.weights import save_base
from tests.fakes.small_sam2 import save_small_sam2

HW = (96, 80)


def _teacher(folder: Path) -> Teacher:
    torch.manual_seed(0)
    save_base(build(SMALLEST), folder)
    return load_teacher(folder, None, base=folder)


def _following(folder: Path) -> Tracker:
    return Follower(_teacher(folder))


def _remembering(folder: Path) -> Tracker:
    teacher = _teacher(folder)
    # Random weights see no object anywhere, and a lost object's mask is empty.
    with torch.no_grad():
        teacher.model.tracker.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(10.0)
    return MemoryTracker(teacher)


def _sam2(folder: Path) -> Tracker:
    save_small_sam2(folder)
    return tracker_of(open_sam2(folder))


FACTORIES: dict[str, Callable[[Path], Tracker]] = {
    "following": _following,
    "SAM 3's memory": _remembering,
    "SAM 2's memory": _sam2,
}


@pytest.fixture(scope="module", params=list(FACTORIES))
def tracker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    torch.set_num_threads(1)
    return FACTORIES[request.param](tmp_path_factory.mktemp("tracker"))


def frame(seed: int) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 255, HW).astype(np.uint8))


def bar() -> np.ndarray:
    bitmap = np.zeros(HW, dtype=bool)
    bitmap[40:50, 20:60] = True
    return bitmap


def test_a_walk_gives_a_mask_and_a_score_for_every_frame(tracker: Tracker) -> None:
    assert isinstance(tracker, Tracker)
    memory = tracker.start(frame(0), bar())
    for position in range(1, 10):
        memory, found = tracker.step(memory, frame(position))
        assert found.bitmap.shape == HW
        assert 0 <= found.score <= 1
        assert 0 <= found.uncertainty <= 1
        if found.logits is not None:
            assert np.isfinite(found.logits).all()
            assert np.array_equal(found.logits > 0, found.bitmap)


def test_what_was_drawn_changes_the_answer(tracker: Tracker) -> None:
    other = np.zeros(HW, dtype=bool)
    other[20:80, 38:46] = True
    answers = []
    for bitmap in (bar(), other):
        _, found = tracker.step(tracker.start(frame(0), bitmap), frame(1))
        assert found.logits is not None
        answers.append(found.logits)
    assert not np.array_equal(*answers)


def test_a_step_changes_neither_its_memory_nor_the_next_answer(tracker: Tracker) -> None:
    memory = tracker.start(frame(0), bar())
    _, once = tracker.step(memory, frame(1))
    tracker.step(memory, frame(2))
    _, again = tracker.step(memory, frame(1))
    assert np.array_equal(once.bitmap, again.bitmap)
    assert once.score == again.score


def test_two_walks_at_a_time_do_not_meet(tracker: Tracker) -> None:
    alone, other = tracker.start(frame(0), bar()), tracker.start(frame(5), ~bar())
    _, expected = tracker.step(alone, frame(1))
    tracker.step(other, frame(6))
    _, found = tracker.step(alone, frame(1))
    assert np.array_equal(expected.bitmap, found.bitmap)


@pytest.mark.parametrize(
    "bitmap",
    [np.zeros(HW, dtype=bool), np.ones((4, 4), dtype=bool)],
    ids=["empty", "another size"],
)
def test_what_cannot_be_followed_is_refused(tracker: Tracker, bitmap: np.ndarray) -> None:
    with pytest.raises(PromptError):
        tracker.start(frame(0), bitmap)


def test_a_frame_of_another_size_is_refused(tracker: Tracker) -> None:
    small = Frame(np.zeros((40, 40), dtype=np.uint8))
    with pytest.raises(PromptError):
        tracker.step(tracker.start(frame(0), bar()), small)
