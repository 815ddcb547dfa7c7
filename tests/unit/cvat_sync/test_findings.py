"""What is worth telling about finished masks, and what is not."""

from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import FrameRef, PixelSpacing
from casebook.corrections import Corrections, MaskChange
from casebook.protocols import Frame
from cvat_sync.findings import QualityFinding, findings
from cvat_sync.marks import is_unanswered, keys_of, marked
from cvat_sync.settings import QualityConfig
from tests.fakes.cvat_round import HW, LABELS, bar, ref

ODD = QualityConfig(measure=False)


def annotated(
    *bitmaps: Bool[np.ndarray, "h w"], label: str = "LAD", status: str = "corrected"
) -> AnnotationSet:
    builder = AnnotationSetBuilder(LABELS)
    image = builder.add_image(ref(0), HW, status=status)  # type: ignore[arg-type]
    for bitmap in bitmaps:
        builder.add_mask(image, label, masks.encode(bitmap), Origin.HUMAN)
    return builder.build()


def unseen(at: FrameRef) -> Frame:
    raise AssertionError(f"{at} is looked at, and nothing is measured")


def found(
    annotations: AnnotationSet, *changes: MaskChange, config: QualityConfig = ODD
) -> dict[str, str]:
    corrections = Corrections(round=2, changes=changes)
    return {
        one.kind: one.text for one in findings(annotations, corrections, LABELS, unseen, config)
    }


def change(outcome: str, iou: float | None = None) -> MaskChange:
    return MaskChange.model_validate(
        {"at": ref(0), "label": "LAD", "outcome": outcome, "iou": iou, "model_id": "round-01"}
    )


def test_a_whole_mask_that_was_kept_is_no_finding() -> None:
    assert found(annotated(bar(10)), change("accepted", 1.0), change("added")) == {}


def test_pieces_and_specks_are_told_apart() -> None:
    broken = bar(10)
    broken[:, 18:20] = False
    assert "2 pieces (60 px, 52 px); expected 1" in found(annotated(broken))["pieces"]
    assert found(annotated(broken), config=ODD.with_(max_pieces=2)) == {}
    speck = bar(10)
    speck[30, 2] = True
    assert list(found(annotated(speck))) == ["specks"]
    assert "1 specks of fewer than 4 px" in found(annotated(speck))["specks"]


def test_pixels_that_touch_at_a_corner_are_one_piece() -> None:
    stairs = np.zeros(HW, dtype=bool)
    for step in range(5):
        stairs[4 * step : 4 * step + 4, 4 * step : 4 * step + 4] = True
    assert found(annotated(stairs)) == {}


@pytest.mark.parametrize(
    ("iou", "kinds"), [(0.49, ["disagrees"]), (0.5, []), (0.0, ["disagrees"])], ids=str
)
def test_little_agreement_with_the_model_is_told(iou: float, kinds: list[str]) -> None:
    told = found(annotated(bar(10)), change("refined", iou))
    assert list(told) == kinds
    if kinds:
        assert f"round-01 at IoU {iou:.2f} only (limit 0.50)" in told["disagrees"]


def test_a_deleted_proposal_is_asked_about_once() -> None:
    told = found(annotated(bar(10)), change("deleted"), change("deleted"))
    assert list(told) == ["misses"]


@pytest.mark.parametrize("status", ["pending", "rejected"])
def test_frames_nobody_finished_are_left_alone(status: str) -> None:
    broken = bar(10)
    broken[:, 18:20] = False
    assert found(annotated(broken, status=status), change("deleted")) == {}


def test_a_segment_that_cannot_be_measured_is_told_and_a_lesion_never_measured() -> None:
    config = QualityConfig()
    short = np.zeros(HW, dtype=bool)
    short[10:16, 10:17] = True

    def shown(at: FrameRef) -> Frame:
        spacing = PixelSpacing(row_mm=0.3, col_mm=0.3, source="calibrated")
        return Frame(np.where(short, np.uint8(40), np.uint8(200)), spacing)

    corrections = Corrections(round=2)
    (one,) = findings(annotated(short), corrections, LABELS, shown, config)
    assert one.kind == "cannot be measured"
    assert one.text.startswith("LAD cannot be measured: ")
    assert one.box_xyxy == (10, 10, 16, 15)
    assert found(annotated(short, label="stenosis"), config=config) == {}


def test_the_same_finding_has_the_same_mark_whatever_its_numbers(tmp_path: Path) -> None:
    one = QualityFinding(
        file_name="a.png", label="LAD", kind="pieces", text="2 pieces", box_xyxy=(0, 0, 1, 1)
    )
    other = one.with_(text="3 pieces", box_xyxy=(4, 4, 5, 5))
    assert one.key == other.key
    assert one.key != one.with_(label="RCA").key
    assert keys_of([marked("seen", one.key), "[angioloop nothing]"]) == {one.key}


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        (marked("2 pieces", "3f2a90c41b7d"), True),
        (f"{marked('2 pieces', '3f2a90c41b7d')} / hidden by the catheter", False),
        (f"{marked('a', '3f2a90c41b7d')} / {marked('b', '000000000000')}", False),
        ("a person's note", False),
    ],
)
def test_our_own_comment_is_no_note_until_a_person_answers(text: str, is_ours: bool) -> None:
    assert is_unanswered(text) is is_ours
