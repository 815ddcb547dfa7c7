"""Agreement of masks, and how sure a mean is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from casebook import metrics

EMPTY = np.zeros((20, 20), dtype=bool)
pairs = st.integers(1, 12).flatmap(lambda n: st.tuples(arrays(bool, (n, n)), arrays(bool, (n, n))))


def bar(x1: int, x2: int) -> np.ndarray:
    bitmap = EMPTY.copy()
    bitmap[8:12, x1:x2] = True
    return bitmap


def test_half_overlap_by_hand() -> None:
    assert metrics.iou(bar(0, 10), bar(5, 15)) == pytest.approx(20 / 60)
    assert metrics.dice(bar(0, 10), bar(5, 15)) == pytest.approx(0.5)


@given(pair=pairs)
def test_iou_and_dice_are_symmetric_and_bounded(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    iou, dice = metrics.iou(a, b), metrics.dice(a, b)
    assert 0 <= iou <= dice <= 1
    assert (iou, dice) == (metrics.iou(b, a), metrics.dice(b, a))
    assert dice == pytest.approx(2 * iou / (1 + iou))


def test_two_empty_masks_agree() -> None:
    assert metrics.iou(EMPTY, EMPTY) == metrics.dice(EMPTY, EMPTY) == 1
    assert metrics.cldice(EMPTY, EMPTY) == 1
    assert metrics.cldice(bar(0, 10), EMPTY) == metrics.cldice(EMPTY, bar(0, 10)) == 0


def test_cldice_forgives_width_and_not_a_gap() -> None:
    wide = EMPTY.copy()
    wide[7:13, 0:20] = True
    assert metrics.cldice(wide, bar(0, 20)) == 1
    assert 0.5 < metrics.cldice(bar(0, 10), bar(0, 20)) < 0.8
    far = np.roll(bar(0, 20), 8, axis=0)
    assert metrics.cldice(far, bar(0, 20)) == 0


def test_hd95_is_the_shift_of_a_shifted_bar() -> None:
    assert metrics.hd95(bar(2, 10), bar(2, 10)) == 0
    assert metrics.hd95(bar(2, 10), bar(5, 13)) == pytest.approx(3, abs=0.5)
    assert metrics.hd95(bar(2, 10), EMPTY) == float("inf")


def test_a_bootstrap_interval_holds_the_mean_and_repeats_by_seed() -> None:
    values = [0.1, 0.2, 0.4, 0.5, 0.9]
    found = metrics.bootstrap_mean(values, seed=3, resamples=2000)
    assert found == metrics.bootstrap_mean(values, seed=3, resamples=2000)
    assert found.low < found.mean < found.high
    assert (found.mean, found.n) == (pytest.approx(0.42), 5)
    certain = metrics.bootstrap_mean([0.5] * 4, resamples=100)
    assert (certain.low, certain.high) == (0.5, 0.5)


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        metrics.bootstrap_mean([])
