"""The course of a lumen's radii against every course there is."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from angio import lumen


def _price(cost: np.ndarray, off: np.ndarray, disbelief: float, course: tuple[int, ...]) -> float:
    """What a course of radii costs with the best choice, at each point, of believing the mask."""
    n, steps = len(course), np.diff(course)
    if np.abs(steps).max() > lumen.STEPS_MAX:
        return np.inf
    fixed = float(cost[np.arange(n), course].sum() + lumen.STIFFNESS * (steps**2).sum())
    best = np.inf
    for inner in product((0, 1), repeat=n - 2):
        doubted = np.array([0, *inner, 0])  # at both ends the mask is believed
        at = off[np.arange(n), course]
        alone = np.where(at < 0, lumen.ALONE, np.inf)
        turns = int((np.diff(doubted) != 0).sum())
        price = fixed + float(np.where(doubted == 1, alone, at**2).sum())
        best = min(best, price + (turns * disbelief if turns else 0.0))
    return best


@pytest.mark.parametrize("disbelief", [0.5, 6.0, np.inf])
@pytest.mark.parametrize("seed", range(6))
def test_the_course_found_is_the_cheapest_of_all(seed: int, disbelief: float) -> None:
    rng = np.random.default_rng(seed)
    n, m = 4, 6
    cost = rng.uniform(0, lumen.DOUBT_MAX, (n, m))
    off = rng.normal(0, 1, (n, 1)) + np.linspace(-4, 4, m)[None]
    found = lumen._smooth_course(cost, off, disbelief)
    at = tuple(int(np.argmin(np.abs(lumen.RADII_PX - one))) for one in found)
    cheapest = min(_price(cost, off, disbelief, one) for one in product(range(m), repeat=n))
    assert _price(cost, off, disbelief, at) == pytest.approx(cheapest)


def test_shadows_of_few_radii_are_those_of_all_cut_off() -> None:
    few, all_of_them = lumen._templates(12.0, 20), lumen._templates(12.0, len(lumen.RADII_PX))
    np.testing.assert_array_equal(few.unit, all_of_them.unit[..., :20])
    np.testing.assert_array_equal(few.size, all_of_them.size[..., :20])
    darkest = all_of_them.unit[4, all_of_them.unit.shape[1] // 2] * all_of_them.size[4]
    assert darkest[50] > darkest[10] > 0  # a wider vessel absorbs more
    np.testing.assert_allclose((all_of_them.unit**2).sum(axis=1), 1.0)
    np.testing.assert_allclose(few.background.T @ few.unit, 0, atol=1e-12)


@pytest.mark.parametrize("limit", [1, 500, 10**9])
def test_profiles_meet_every_template_whatever_part_of_them_is_taken_at_once(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lumen, "ALONE_PRODUCTS", limit)
    rng = np.random.default_rng(5)
    flat, unit = rng.normal(size=(23, 7)), rng.normal(size=(3, 7, 11))
    np.testing.assert_allclose(lumen._matched(flat, unit), np.einsum("nx,sxr->snr", flat, unit))


@pytest.mark.parametrize("n", range(2, 7))
def test_a_course_of_any_number_of_points_is_found_from_both_ends(n: int) -> None:
    cost = np.full((n, 9), lumen.DOUBT_MAX)
    cost[np.arange(n), np.arange(n) + 1] = 0.0  # one radius after the other is seen
    found = lumen._smooth_course(cost, np.zeros((n, 9)), np.inf)
    np.testing.assert_array_equal(found, lumen.RADII_PX[1 : n + 1])


_MATCHED = """
import time
import numpy as np
from angio.lumen import _matched
rng = np.random.default_rng(1)
flat, unit = rng.normal(size=(322, 45)), rng.normal(size=(9, 45, 101))
_matched(flat, unit)
everyone, own = time.process_time(), time.thread_time()
for _ in range(20):
    _matched(flat, unit)
print((time.process_time() - everyone) / (time.thread_time() - own))
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be counted here")
def test_no_thread_is_kept_waiting_for_products_of_profiles_and_templates() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("held to one core, where no library starts threads")
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", _MATCHED],
        cwd=Path(__file__).parents[3], env=free, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 1.3  # the processor's time of all threads over that of this one


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_picture_is_read_between_its_pixels_as_scipy_reads_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture, x, y = rng.normal(size=(11, 9)), *rng.uniform(-3, 14, (2, 5, 40))
    x[0], y[0] = np.round(x[0]), np.round(y[0])  # on pixel centres, the outermost and those beyond
    ours = lumen._between_pixels(picture, x, y)
    theirs = ndimage.map_coordinates(picture, [y, x], order=1, mode="nearest")
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_straight_line_is_fitted_as_numpy_fits_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, weight = rng.normal(size=(3, 40))
    weight = np.maximum(weight, 0.0)
    weight[:2] = 1.0
    theirs = np.polyfit(x, y, 1, w=np.sqrt(weight))
    np.testing.assert_allclose(lumen.straight(x, y, weight), theirs, atol=1e-8)
