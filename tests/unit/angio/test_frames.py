"""The chosen frame against the truth of whole injections: filled, and the heart at rest."""

import numpy as np
import pytest

from angio.frames import choose_frame
from angio.phantoms.bolus import Bolus, draw_bolus
from angio.phantoms.render import render_cine
from casebook.errors import DataError

N_FRAMES = 24
SEEDS = range(100, 103)


def _run(seed: int) -> tuple[Bolus, np.ndarray]:
    bolus = draw_bolus(np.random.default_rng([5, seed]), N_FRAMES)
    return bolus, render_cine(np.random.default_rng([6, seed]), bolus.scene)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_filled_frame_with_the_heart_at_rest_is_chosen(seed: int) -> None:
    bolus, run = _run(seed)
    assert bolus.filled[0] < 0.05
    assert 3 <= len(bolus.plateau) < N_FRAMES / 2
    choice = choose_frame(run)
    assert choice.frame in bolus.plateau
    assert choice.inflow_seen
    assert bolus.contraction[choice.frame] < 0.3
    assert 0.9 <= choice.score <= 1


def test_catheter_only_and_half_filled_frames_lose() -> None:
    bolus, run = _run(110)
    order = np.argsort(bolus.filled)
    some = sorted(int(frame) for frame in order[: -(len(bolus.plateau) // 2)])
    choice = choose_frame(iter(run[some]), some)
    assert choice.frame in bolus.plateau


def test_a_run_without_contrast_says_so() -> None:
    bolus, run = _run(111)
    empty = np.flatnonzero(bolus.filled < 0.01)[:4]
    assert len(empty) >= 3
    assert not choose_frame(run[empty]).inflow_seen


def test_frames_of_one_value_are_refused() -> None:
    with pytest.raises(DataError, match="nothing to see"):
        choose_frame(np.full((3, 64, 64), 7, dtype=np.uint16))
    with pytest.raises(DataError, match="nothing to see"):
        choose_frame([])


@pytest.mark.parametrize("hw", [(8, 8), (2, 4096), (1, 3)])
def test_a_single_frame_of_any_shape_is_chosen(hw: tuple[int, int]) -> None:
    one = np.random.default_rng(1).integers(0, 4096, (1, *hw), dtype=np.uint16)
    assert choose_frame(one, [4]).frame == 4
