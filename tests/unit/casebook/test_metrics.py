"""Agreement of masks, and how sure a mean is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import compute_hausdorff_distance, compute_iou, compute_surface_dice
from scipy.stats import bootstrap
from skimage.metrics import contingency_table

from bench import metrics as bench
from casebook import metrics

MONAIS_OWN = "ignore:.*always_return_as_numpy.*:FutureWarning"
"""MONAI 1.6.1 warns of an argument it passes to itself; may go when 1.7 has removed it."""

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


def tensor(bitmap: np.ndarray) -> torch.Tensor:
    """As MONAI takes a mask: one image of one class."""
    return torch.from_numpy(bitmap[None, None]).float()


@pytest.mark.filterwarnings(MONAIS_OWN)
@settings(max_examples=60, deadline=None)
@given(pair=pairs)
def test_monai_gives_the_same_answers(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    if not a.any() or not b.any():
        return  # its answers are NaN; ours are defined, see below
    one, other = tensor(a), tensor(b)
    assert metrics.iou(a, b) == pytest.approx(float(compute_iou(one, other)))
    for spacing in (None, (0.5, 2.0)):
        theirs = compute_hausdorff_distance(
            one, other, include_background=True, percentile=95, spacing=spacing
        )
        assert metrics.hd95(a, b, spacing_mm=spacing) == pytest.approx(float(theirs), rel=1e-5)
        theirs = compute_surface_dice(one, other, [1.5], include_background=True, spacing=spacing)
        found = metrics.surface_dice(a, b, 1.5, spacing_mm=spacing)
        assert found == pytest.approx(float(theirs), rel=1e-5)


@given(pair=pairs)
def test_looking_at_the_box_alone_changes_no_centreline(
    pair: tuple[np.ndarray, np.ndarray],
) -> None:
    a, b = (np.pad(bitmap, ((5, 9), (0, 3))) for bitmap in pair)
    if metrics.cldice(a, b) > 0 and a.any():
        assert metrics.cldice(a, b) == pytest.approx(bench.whole_cldice(a, b))
    assert metrics.cldice(*pair) == metrics.cldice(a, b)


def test_a_surface_agrees_within_its_tolerance_only() -> None:
    a, b = bar(2, 10), bar(4, 12)
    assert metrics.surface_dice(a, a, 0.0) == 1
    assert metrics.surface_dice(a, b, 2.0) == 1
    assert 0 < metrics.surface_dice(a, b, 1.0) < 1
    assert metrics.surface_dice(a, b, 1.0, spacing_mm=(0.5, 0.5)) == 1
    assert metrics.surface_dice(a, np.roll(a, 8, axis=0), 1.0) == 0
    with pytest.raises(ValueError, match="expected a distance"):
        metrics.surface_dice(a, b, -1.0)


def test_distances_in_mm_are_those_in_px_times_the_spacing() -> None:
    a, b = bar(2, 10), bar(5, 13)
    assert metrics.hd95(a, b, spacing_mm=(0.25, 0.25)) == pytest.approx(metrics.hd95(a, b) / 4)


def test_empty_masks_have_defined_answers() -> None:
    full = bar(0, 10)
    assert metrics.hd95(EMPTY, EMPTY) == 0
    assert metrics.surface_dice(EMPTY, EMPTY, 1.0) == 1
    assert metrics.surface_dice(full, EMPTY, 1.0) == metrics.surface_dice(EMPTY, full, 1.0) == 0
    assert metrics.iou(full, EMPTY) == metrics.dice(EMPTY, full) == 0
    assert metrics.hd95(EMPTY, full) == float("inf")


@given(
    classes=st.integers(1, 5).flatmap(
        lambda k: st.tuples(
            st.just(k), *(arrays(np.int64, 30, elements=st.integers(0, k - 1)) for _ in range(2))
        )
    )
)
def test_confusion_is_scikit_images_table(classes: tuple[int, np.ndarray, np.ndarray]) -> None:
    count, predicted, truth = classes
    found = metrics.confusion(predicted, truth, count)
    table = contingency_table(truth, predicted).toarray()
    np.testing.assert_array_equal(found[: table.shape[0], : table.shape[1]], table)
    assert found.sum() == 30


def test_every_class_has_its_shares_by_hand() -> None:
    truth, predicted = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0])
    first, second, unseen = metrics.by_class(metrics.confusion(predicted, truth, 3))
    assert (first.precision, first.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (second.precision, second.recall, second.n) == (0.5, 0.5, 2)
    assert second.iou == pytest.approx(1 / 3)
    assert (unseen.precision, unseen.recall, unseen.iou, unseen.n) == (None, None, None, 0)


def test_a_class_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="true classes from 0 to 3"):
        metrics.confusion(np.array([0, 1]), np.array([0, 3]), 3)
    with pytest.raises(ValueError, match="predicted classes from -1"):
        metrics.confusion(np.array([-1, 1]), np.array([0, 1]), 3)


def test_a_paired_interval_is_scipys() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(0.6, 0.1, 40)
    after = before + rng.normal(0.02, 0.03, 40)
    found = metrics.bootstrap_gain(after.tolist(), before.tolist())
    theirs = bootstrap(
        (after - before,), np.mean, n_resamples=10_000, method="percentile", rng=rng
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.001)
    apart = (
        metrics.bootstrap_mean(after.tolist()).low - metrics.bootstrap_mean(before.tolist()).high
    )
    assert found.low > apart  # pairing takes the cases' own spread out
    with pytest.raises(ValueError, match="40 and 39"):
        metrics.bootstrap_gain(after.tolist(), before.tolist()[1:])


@pytest.mark.filterwarnings(MONAIS_OWN)
def test_the_bench_compares_equal_answers() -> None:
    figures = bench.measure(quick=True)
    assert set(bench.AIMS) < set(figures)
    assert all((figures[name] or 0) > 0 for name in bench.AIMS)
