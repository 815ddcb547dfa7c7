"""The course of a lumen's radii against every course there is."""

from itertools import product

import numpy as np
import pytest

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
    np.testing.assert_array_equal(few.shapes, all_of_them.shapes[..., :20])
    darkest = all_of_them.shapes[len(all_of_them.shapes) // 2, 4]
    assert darkest[50] > darkest[10] > 0  # a wider vessel absorbs more
