"""The Bland–Altman table against published and independent figures, and its plot."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from angio.agreement import agreement, bland_altman_svg
from casebook.errors import DataError

PEFR_MINI = (512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451)
PEFR_LARGE = (494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427)
"""Peak flow by two meters, in l/min: Bland and Altman, Lancet 327 (1986) 307–310, table I."""

TARGETS = ((9, 2, 5, 8), (6, 1, 3, 2), (8, 4, 6, 8), (7, 1, 2, 6), (10, 5, 6, 9), (6, 2, 4, 7))
"""Six targets, four judges: Shrout and Fleiss (1979), table 2."""

numbers = st.floats(-100, 100)


def floats(values: tuple[int, ...]) -> list[float]:
    return [float(value) for value in values]


def test_the_table_of_bland_and_altmans_own_example() -> None:
    """Printed there: bias −2.1, SD 38.8, limits −79.7 and 75.5 (with 2 SD), r 0.94."""
    found = agreement("flow", "l/min", floats(PEFR_LARGE), floats(PEFR_MINI))
    assert found.n == 17
    assert found.bias.value == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    assert found.bias.low == pytest.approx(-22.0, abs=0.1)
    assert found.bias.high == pytest.approx(17.8, abs=0.1)
    assert found.pearson_r == pytest.approx(0.94, abs=0.005)
    assert found.upper_limit.value == pytest.approx(-2.118 + 1.96 * 38.765, abs=0.05)
    assert found.upper_limit.low < found.upper_limit.value < found.upper_limit.high


def test_the_interval_of_the_bias_is_that_of_a_paired_t_test() -> None:
    a, b = floats(PEFR_LARGE), floats(PEFR_MINI)
    found = agreement("flow", "l/min", a, b).bias
    theirs = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_the_icc_is_that_of_an_analysis_of_variance_by_hand() -> None:
    """Two of the four judges; sums of squares written out one by one."""
    table = np.array(TARGETS, dtype=np.float64)[:, [0, 2]]
    n, k = table.shape
    between = sum(k * (row.mean() - table.mean()) ** 2 for row in table) / (n - 1)
    judges = sum(n * (column.mean() - table.mean()) ** 2 for column in table.T) / (k - 1)
    total = sum((value - table.mean()) ** 2 for value in table.ravel())
    error = (total - between * (n - 1) - judges * (k - 1)) / ((n - 1) * (k - 1))
    expected = (between - error) / (between + (k - 1) * error + k * (judges - error) / n)
    found = agreement("rating", "points", table[:, 0].tolist(), table[:, 1].tolist())
    assert found.icc == pytest.approx(expected)


@given(values=st.lists(st.tuples(numbers, numbers), min_size=3, max_size=30))
def test_swapping_sides_turns_the_sign_and_nothing_else(
    values: list[tuple[float, float]],
) -> None:
    a, b = [one for one, _ in values], [other for _, other in values]
    one, other = agreement("x", "mm", a, b), agreement("x", "mm", b, a)
    assert one.bias.value == pytest.approx(-other.bias.value)
    assert one.lower_limit.value == pytest.approx(-other.upper_limit.value)
    assert (one.sd, one.mean_abs) == pytest.approx((other.sd, other.mean_abs))
    assert one.lower_limit.value <= one.bias.value <= one.upper_limit.value


def test_equal_measurements_agree_without_a_spread() -> None:
    found = agreement("x", "mm", [1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (found.bias.value, found.sd, found.icc) == (0, 0, pytest.approx(1))
    constant = agreement("x", "mm", [1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert (constant.pearson_r, constant.icc) == (None, None)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        pytest.param([1.0, 2.0], [1.0, 2.0], id="too few"),
        pytest.param([1.0, 2.0, 3.0], [1.0, 2.0], id="unequal"),
        pytest.param([1.0, 2.0, float("nan")], [1.0, 2.0, 3.0], id="no number"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(DataError, match="x: "):
        agreement("x", "mm", ours, theirs)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_plot_shows_every_pair_inside_its_frame(spread: float) -> None:
    rng = np.random.default_rng(1)
    theirs = (2 + spread * rng.normal(size=25)).tolist()
    ours = [value + spread * 0.1 for value in theirs]
    found = agreement("mld_mm", "mm", ours, theirs)
    drawn = bland_altman_svg(found, ours, theirs, title="a < b")
    plot = ElementTree.fromstring(drawn)  # noqa: S314 - our own text, not an untrusted file
    space = "{http://www.w3.org/2000/svg}"
    dots = plot.findall(f"{space}circle")
    assert len(dots) == 25
    for dot in dots:
        assert 0 <= float(dot.get("cx", "-1")) <= 640
        assert 0 <= float(dot.get("cy", "-1")) <= 420
    text = " ".join(element.text or "" for element in plot.iter(f"{space}text"))
    assert "a < b (n = 25)" in text
    assert "+1.96 SD" in text
