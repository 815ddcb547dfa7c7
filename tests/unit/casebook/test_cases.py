"""Cases, frames, views and splits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casebook.cases import Case, FrameRef, PixelSpacing, Split, View
from casebook.split import split_of

IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")


@given(case_id=IDS, frame=st.integers(0, 99_999))
def test_a_frames_name_reads_back(case_id: str, frame: int) -> None:
    ref = FrameRef(case_id=case_id, frame=frame)
    assert FrameRef.from_file_name(ref.file_name) == ref


@pytest.mark.parametrize("name", ["a.png", "a.f1.png", "../a.f00001.png", "a.f00001.jpg", ""])
def test_other_names_are_nobodys_frame(name: str) -> None:
    assert FrameRef.from_file_name(name) is None


@pytest.mark.parametrize("case_id", ["", "../up", "a/b", "a b", "-a", "x" * 65])
def test_a_case_id_is_safe_as_a_file_name(case_id: str) -> None:
    with pytest.raises(ValueError, match="case_id"):
        FrameRef(case_id=case_id, frame=0)


@pytest.mark.parametrize(
    ("primary", "secondary", "text"),
    [(30.0, 20.0, "LAO 30 cranial 20"), (-30.4, -5.0, "RAO 30 caudal 5")],
)
def test_a_view_reads_as_cardiologists_say_it(primary: float, secondary: float, text: str) -> None:
    assert str(View(primary_deg=primary, secondary_deg=secondary)) == text


def test_spacing_has_a_source_and_a_mean() -> None:
    assert PixelSpacing(row_mm=0.2, col_mm=0.4, source="detector").mean_mm == pytest.approx(0.3)
    with pytest.raises(ValueError, match="source"):
        PixelSpacing.model_validate({"row_mm": 0.2, "col_mm": 0.2})


def test_a_case_points_at_its_annotated_frame() -> None:
    case = Case(
        case_id="c1",
        patient="p",
        split=Split.TRAIN,
        source="images",
        frame=3,
        n_frames=9,
        height_px=8,
        width_px=8,
        image_sha256="0",
    )
    assert case.ref == FrameRef(case_id="c1", frame=3)


def test_splits_are_fixed_by_patient_and_key_and_near_their_shares() -> None:
    patients = [f"patient-{n}" for n in range(4000)]
    found = [split_of(patient, b"key") for patient in patients]
    assert found == [split_of(patient, b"key") for patient in patients]
    assert found != [split_of(patient, b"other") for patient in patients]
    shares = {split: found.count(split) / len(found) for split in Split}
    assert shares[Split.TEST] == pytest.approx(0.2, abs=0.03)
    assert shares[Split.VAL] == pytest.approx(0.2, abs=0.03)


def test_shares_may_be_nothing_or_everything() -> None:
    assert split_of("p", b"k", val=0.0, test=0.0) is Split.TRAIN
    assert split_of("p", b"k", val=1.0, test=0.0) is Split.VAL
    assert split_of("p", b"k", test=1.0) is Split.TEST
