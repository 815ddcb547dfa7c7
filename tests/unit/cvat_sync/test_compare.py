"""Results are matched with proposals label by label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cvat_sync.compare import Drawn, compare
from tests.fakes.cvat_round import HW, bar, ref

AT = ref(0)


def outcomes(proposals: list[Drawn], results: list[Drawn]) -> list[str]:
    return sorted(match.change.outcome for match in compare(AT, proposals, results))


@pytest.mark.parametrize(
    ("proposals", "results", "expected"),
    [
        pytest.param([], [], [], id="nothing"),
        pytest.param(
            [Drawn("LAD", bar(10))], [Drawn("LAD", bar(10))], ["accepted"], id="untouched"
        ),
        pytest.param([Drawn("LAD", bar(10))], [Drawn("LAD", bar(11))], ["refined"], id="moved"),
        pytest.param([Drawn("LAD", bar(10))], [], ["deleted"], id="deleted"),
        pytest.param([], [Drawn("LAD", bar(10))], ["added"], id="added"),
        pytest.param(
            [Drawn("LAD", bar(10))],
            [Drawn("LAD", bar(30))],
            ["added", "deleted"],
            id="no common pixel",
        ),
        pytest.param(
            [Drawn("LAD", bar(10))],
            [Drawn("RCA", bar(10))],
            ["added", "deleted"],
            id="another label",
        ),
        pytest.param(
            [Drawn("LAD", bar(10)), Drawn("LAD", bar(12))],
            [Drawn("LAD", bar(12)), Drawn("LAD", bar(10))],
            ["accepted", "accepted"],
            id="best pairs first",
        ),
    ],
)
def test_each_mask_has_one_outcome(
    proposals: list[Drawn], results: list[Drawn], expected: list[str]
) -> None:
    assert outcomes(proposals, results) == expected


def test_a_refined_mask_tells_agreement_pixels_and_model() -> None:
    before, after = Drawn("LAD", bar(10), "model-1"), Drawn("LAD", bar(11))
    (match,) = compare(AT, [before], [after])
    assert match.change.iou == pytest.approx(90 / 150)
    assert match.change.changed_px == 60
    assert match.change.model_id == "model-1"


masks_ = st.lists(st.tuples(st.sampled_from(["LAD", "RCA"]), st.integers(0, HW[0] - 4)), max_size=4)


@given(masks_, masks_)
def test_every_proposal_and_result_appears_exactly_once(
    before: list[tuple[str, int]], after: list[tuple[str, int]]
) -> None:
    proposals = [Drawn(label, bar(row)) for label, row in before]
    results = [Drawn(label, bar(row)) for label, row in after]
    matches = compare(AT, proposals, results)
    assert sorted(m.result for m in matches if m.result is not None) == list(range(len(results)))
    assert sorted(m.proposal for m in matches if m.proposal is not None) == list(
        range(len(proposals))
    )
    for match in matches:
        if match.change.outcome == "accepted":
            assert match.change.iou == 1.0
            assert match.change.changed_px == 0
            assert match.result is not None
            assert match.proposal is not None
            assert np.array_equal(results[match.result].bitmap, proposals[match.proposal].bitmap)
