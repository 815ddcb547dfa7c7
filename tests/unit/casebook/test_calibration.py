"""A score becomes a chance, fitted on masks of known truth; few masks make nothing certain."""

from pathlib import Path

import numpy as np
import pytest

from casebook.calibration import (
    MIN_MASKS,
    Calibration,
    Curve,
    calibration_path,
    fit,
    read_calibration,
    write_calibration,
)
from casebook.errors import DataError
from casebook.home import Home


def overconfident(count: int) -> tuple[list[float], list[bool], list[str]]:
    """Scores whose masks are right less often than they say: the odds are those at score − 0.3."""
    dice = np.random.default_rng(5)
    scores = dice.uniform(0.05, 0.95, count)
    right = dice.uniform(size=count) < np.clip(scores - 0.3, 0.02, 1)
    return scores.tolist(), right.tolist(), [f"c{n // 2}" for n in range(count)]


def test_scores_that_say_too_much_are_corrected() -> None:
    curve = fit(*overconfident(2000))
    assert curve.confidence(0.8) == pytest.approx(0.5, abs=0.06)
    assert curve.confidence(0.5) < 0.3
    assert curve.brier_curve < curve.brier_score - 0.05


def test_confidence_rises_with_the_score_and_stays_between_0_and_1() -> None:
    curve = fit(*overconfident(200))
    values = [curve.confidence(score) for score in np.linspace(-0.5, 1.5, 50)]
    assert values == sorted(values)
    assert 0 <= values[0] < values[-1] <= 1


def test_a_score_that_tells_nothing_gives_everyone_the_same_chance() -> None:
    dice = np.random.default_rng(1)
    right = [n % 4 != 0 for n in range(400)]
    scores = np.where(right, dice.uniform(0, 0.5, 400), dice.uniform(0.5, 1, 400)).tolist()
    curve = fit(scores, right, [str(n) for n in range(400)])
    assert curve.slope == 0
    assert curve.confidence(0.1) == curve.confidence(0.9) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("is_right", [True, False])
def test_a_small_sample_makes_nothing_certain(is_right: bool) -> None:
    curve = fit([0.9] * MIN_MASKS, [is_right] * MIN_MASKS, [str(n) for n in range(MIN_MASKS)])
    shown = curve.confidence(0.9)
    assert shown == pytest.approx(21 / 22 if is_right else 1 / 22, abs=0.01)


def test_the_curve_is_judged_on_cases_it_has_not_seen() -> None:
    scores = [0.5] * 40
    right = [True] * 20 + [False] * 20
    alone = fit(scores, right, [str(n) for n in range(40)])
    together = fit(scores, right, ["a"] * 20 + ["b"] * 20)
    assert alone.brier_curve == pytest.approx(0.25, abs=0.02)
    assert together.brier_curve > 0.8


def test_one_case_alone_is_judged_by_the_bare_score() -> None:
    curve = fit([0.8] * MIN_MASKS, [True] * MIN_MASKS, ["only"] * MIN_MASKS)
    assert curve.brier_curve == pytest.approx(curve.brier_score)


def test_too_few_masks_are_refused() -> None:
    with pytest.raises(DataError, match="19 masks with a known truth; expected 20 or more"):
        fit([0.5] * 19, [True] * 19, ["c"] * 19)


def test_a_calibration_is_kept_by_model(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert read_calibration(home, "m1") is None
    found = Calibration(model_id="m1", cases=9, box=fit(*overconfident(40)))
    assert write_calibration(home, found) == calibration_path(home, "m1")
    assert read_calibration(home, "m1") == found
    assert read_calibration(home, "m2") is None


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    curve = Curve(slope=1, intercept=0, masks=20, right=10, brier_score=0.2, brier_curve=0.2)
    path = write_calibration(home, Calibration(model_id="m1", cases=9, box=curve))
    path.rename(calibration_path(home, "m2"))
    with pytest.raises(DataError, match=r"is of model m1; expected m2. Run `make calibrate`"):
        read_calibration(home, "m2")
