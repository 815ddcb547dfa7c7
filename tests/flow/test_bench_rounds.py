"""The bench of rounds in small counts: what must hold at any speed."""

import pytest

from bench import rounds
from tests.flow.domains import need_tiny_base


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_killed_workers_leave_the_state_of_those_left_in_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    figures = rounds.kills(quick=True)
    assert (figures["kills"], figures["wrong_end_states"]) == (2, 0)


def test_three_rounds_on_phantoms_say_what_they_forget() -> None:
    need_tiny_base()
    figures = rounds.forgetting(quick=True)
    assert figures["forgetting_patients"] == 1
    assert -1 < (figures["forgetting_low"] or 0) <= (figures["forgetting_upper"] or 0) < 1


def test_a_mean_over_seeds_has_its_interval_and_that_of_one_seed_none() -> None:
    # Student's t at 97.5 % for 2 degrees of freedom is 4.3027: 4.3027 x 0.1 / sqrt(3) = 0.2484.
    assert rounds._over_seeds("iou", [0.6, 0.7, 0.8]) == pytest.approx(
        {"iou": 0.7, "iou_low": 0.7 - 0.24841, "iou_high": 0.7 + 0.24841}, abs=1e-4
    )
    assert rounds._over_seeds("iou", [0.6]) == {"iou": 0.6, "iou_low": None, "iou_high": None}
