"""The arms of a selection, compared by corrections that were written by hand."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from casebook.cases import FrameRef, Split
from casebook.corrections import Corrections, MaskChange
from casebook.rounds import Manifest, ManifestCase
from tests.unit.trainer.workspace import LABELS
from trainer.arms import compare_arms


def at(number: int) -> FrameRef:
    return FrameRef(case_id=f"case-{number:03d}", frame=0)


def manifest(arms: Sequence[str], strategy: str = "uncertainty") -> Manifest:
    cases = [
        ManifestCase.model_validate(
            {"at": at(n), "patient": f"p{n}", "split": Split.TRAIN, "image_sha256": "0", "arm": arm}
        )
        for n, arm in enumerate(arms)
    ]
    return Manifest(
        round=2, labels=LABELS, strategy=strategy, seed=0, cases=tuple(cases), val=(), test=(),
        created=datetime.now(UTC),
    )  # fmt: skip


def refined(number: int, iou: float) -> MaskChange:
    return MaskChange(at=at(number), label="tube", outcome="refined", iou=iou)


ARMS = ["strategy"] * 4 + ["control"] * 4


def corrections(ious: Sequence[float], *more: MaskChange) -> Corrections:
    changes = [refined(n, iou) for n, iou in enumerate(ious)]
    return Corrections(round=2, changes=(*changes, *more))


@pytest.mark.parametrize(
    ("ious", "mean", "verdict"),
    [
        ([0.5, 0.55, 0.5, 0.45, 0.9, 0.9, 0.95, 0.85], 0.4, "more wrong than on random"),
        ([0.9, 0.9, 0.95, 0.85, 0.5, 0.55, 0.5, 0.45], -0.4, "less wrong than on random"),
        ([0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.1], 0.0, "not to be told from"),
    ],
    ids=["harder", "easier", "the same"],
)
def test_the_verdict_follows_the_interval(ious: list[float], mean: float, verdict: str) -> None:
    found = compare_arms(manifest(ARMS), corrections(ious))
    assert found is not None
    assert found.difference.mean == pytest.approx(mean)
    assert found.difference.low <= mean <= found.difference.high
    assert (found.chosen.n, found.control.n) == (4, 4)
    assert verdict in found.verdict


def test_a_case_counts_once_and_what_was_missed_counts_in_full() -> None:
    ious = [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8]
    added = MaskChange(at=at(0), label="tube", outcome="added")
    kept = MaskChange(at=at(7), label="tube", outcome="accepted", iou=1.0)
    found = compare_arms(manifest(ARMS), corrections(ious, added, kept))
    assert found is not None
    assert found.chosen.mean == pytest.approx((0.6 + 0.2 * 3) / 4)
    assert found.control.mean == pytest.approx((0.1 + 0.2 * 3) / 4)


def test_rejected_frames_and_arms_of_one_case_say_nothing() -> None:
    arms = ["strategy"] * 3 + ["control"] * 2
    ious = [0.5] * 5
    assert compare_arms(manifest(arms), corrections(ious)) is not None
    thrown = corrections(ious).with_(rejected=[at(4).model_dump()])
    assert compare_arms(manifest(arms), thrown) is None
    assert compare_arms(manifest(["strategy"] * 5), corrections(ious)) is None
    assert compare_arms(manifest(arms, "random"), corrections(ious)) is None
