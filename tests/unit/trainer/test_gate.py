"""The promotion gate as a table."""

import pytest

from casebook.errors import DataError
from trainer.gate import Scored, compare
from trainer.rounds_config import GateConfig

CASES = [f"c{index:02d}" for index in range(12)]
VESSELS: dict[str, str | None] = {
    case: "RCA" if index < 6 else "LAD" for index, case in enumerate(CASES)
}


def scored(model_id: str, values: list[float]) -> Scored:
    return Scored(model_id, dict(zip(CASES, values, strict=True)))


@pytest.mark.parametrize(
    ("gains", "promote", "reason"),
    [
        pytest.param([0.05] * 12, True, "mean gain +0.050", id="every case better"),
        pytest.param([0.0] * 12, False, "not positive", id="no change"),
        pytest.param([-0.02] * 12, False, "not positive", id="every case worse"),
        pytest.param([0.2, -0.15] * 6, False, "lower bound", id="better on average but unsure"),
        pytest.param(
            [0.2] * 6 + [-0.05] * 6, False, "vessel LAD", id="one vessel pays for the other"
        ),
        pytest.param([0.2] * 6 + [0.05, -0.05] * 3, True, "mean gain", id="one vessel unchanged"),
    ],
)
def test_the_gate_decides_by_gain_bound_and_vessel(
    gains: list[float], promote: bool, reason: str
) -> None:
    incumbent = scored("old", [0.5] * 12)
    candidate = scored("new", [0.5 + gain for gain in gains])
    decision = compare(candidate, incumbent, VESSELS, GateConfig())
    assert decision.promote is promote
    assert any(reason in text for text in decision.reasons)
    assert decision.mean_gain == pytest.approx(sum(gains) / 12)


def test_the_lower_bound_is_a_setting() -> None:
    incumbent = scored("old", [0.5] * 12)
    candidate = scored("new", [0.5 + gain for gain in [0.2, -0.15] * 6])
    decision = compare(candidate, incumbent, {}, GateConfig(lower_bound=-0.2))
    assert decision.promote


def test_vessels_with_few_cases_are_not_judged_alone() -> None:
    vessels: dict[str, str | None] = dict.fromkeys(CASES, "RCA") | {"c00": "LCX", "c01": "LCX"}
    candidate = scored("new", [0.3, 0.3] + [0.7] * 10)
    decision = compare(candidate, scored("old", [0.5] * 12), vessels, GateConfig())
    assert decision.promote
    assert [entry.vessel for entry in decision.vessels] == ["RCA"]


@pytest.mark.parametrize("cases", [[], ["c00"]], ids=["none", "others"])
def test_models_scored_on_different_cases_are_not_compared(cases: list[str]) -> None:
    with pytest.raises(DataError, match="both need the same cases"):
        compare(
            Scored("new", dict.fromkeys(cases, 0.5)), scored("old", [0.5] * 12), {}, GateConfig()
        )
