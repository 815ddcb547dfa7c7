"""The bench of rounds in small counts: what must hold at any speed."""

import pytest

from bench import rounds
from tests.flow.domains import need_tiny_base


@pytest.fixture(autouse=True)
def _needs_the_shipped_base() -> None:
    need_tiny_base()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_killed_workers_leave_the_state_of_those_left_in_peace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    figures = rounds.kills(quick=True)
    assert (figures["kills"], figures["wrong_end_states"]) == (2, 0)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")
def test_a_training_killed_twice_ends_at_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    figures = rounds.resume(quick=True)
    assert (figures["resume_kills"], figures["resume_max_abs_diff"]) == (2, 0)


def test_rounds_on_phantoms_give_every_figure() -> None:
    figures = rounds.forgetting(quick=True) | rounds.iou_by_round(quick=True)
    figures |= rounds.data_wait(quick=True)
    measured_elsewhere = {"resume_max_abs_diff", "kills", "wrong_end_states"}
    assert set(rounds.AIMS) <= set(figures) | measured_elsewhere
    assert all(0 < (figures[f"iou_by_round_{number}"] or 0) < 1 for number in (1, 2, 3))
    assert figures["forgetting_patients"] == 1
    assert (figures["forgetting_low"] or 0) <= (figures["forgetting_upper"] or 0)
    assert 0 < (figures["data_wait_fraction"] or 0) < 1
