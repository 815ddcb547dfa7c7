"""The bench of selection: its arithmetic on curves written by hand, and a quick run."""

import pytest

from bench.selection import QUICK, STRATEGIES, Size, cases_to, figures_of, interval, measure

SIZE = Size(seeds=(1, 2), patients=9, test_patients=1, start=10, more=10, rounds=3, steps=1)


@pytest.mark.parametrize(
    ("curve", "cases"),
    [
        ([0.5, 0.6, 0.7], 25.0),
        ([0.66, 0.1, 0.1], 10.0),
        ([0.5, 0.7, 0.6], 17.5),
        ([0.5, 0.6, 0.64], None),
    ],
    ids=["between two rounds", "from the start", "the first time", "never"],
)
def test_cases_are_counted_to_where_a_curve_first_passes(
    curve: list[float], cases: float | None
) -> None:
    assert cases_to(0.65, curve, SIZE) == (None if cases is None else pytest.approx(cases))


def test_figures_compare_each_strategy_with_chance_seed_by_seed() -> None:
    curves = {"random": [[0.5, 0.55, 0.6], [0.5, 0.6, 0.7]], "ours": [[0.5, 0.6, 0.65]] * 2}
    found = figures_of(curves, SIZE)
    assert found["target_iou"] == pytest.approx(0.65)
    # Random's first seed never reaches the mean: it counts the whole budget.
    assert found["cases_to_iou_random"] == pytest.approx((30 + 25) / 2)
    assert (found["seeds_short_random"], found["seeds_short_ours"]) == (1, 0)
    assert found["cases_to_iou_ours"] == pytest.approx(30)
    gains = (0.05, -0.025)
    assert found["gain_over_random_ours"] == pytest.approx(sum(gains) / 2)
    low, high = interval(gains)
    assert low is not None
    assert high is not None
    assert found["gain_over_random_ours_low"] == pytest.approx(low)
    assert found["gain_over_random_ours_high"] == pytest.approx(high)
    assert low < -0.025
    assert interval([1.0]) == (None, None)


def test_a_quick_run_has_every_figure() -> None:
    found = measure(quick=True)
    for strategy in STRATEGIES:
        assert 3 <= (found[f"cases_to_iou_{strategy}"] or 0) <= QUICK.budget
        for cases in (QUICK.start, QUICK.budget):
            assert 0 < (found[f"iou_{strategy}_{cases}"] or 0) < 1
    # All start from the same model.
    assert len({found[f"iou_{strategy}_{QUICK.start}"] for strategy in STRATEGIES}) == 1
