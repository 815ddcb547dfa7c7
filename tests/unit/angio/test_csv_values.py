"""What single cells of the lab's CSV and single contour files mean, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from angio.contours import Axis, angle_deg, read_contours
from angio.lab_csv import CsvOptions, parse_row, patient_of, phase_of, segment_of
from angio.phantoms.truth import StudyTruth
from casebook.errors import DataError, MaskError
from casebook.labels import LabelSet

Row = dict[str, str]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"cass_segment": "2"}, "mid RCA", id="number"),
        pytest.param({"cass_segment": "12.0"}, "proximal LAD", id="number as a fraction"),
        pytest.param({"vessel_pattern": "MID RCA FINAL"}, "mid RCA", id="pattern"),
        pytest.param({"vessel_pattern": "MID_RCA"}, "mid RCA", id="pattern with underscores"),
        pytest.param({"cass_segment": "", "vessel_name": "PDA"}, "PDA", id="vessel"),
        pytest.param({"vessel_name": "RCA"}, None, id="a vessel is not a segment"),
    ],
)
def test_segments_are_recognised(values: Row, expected: str | None, coronary: LabelSet) -> None:
    assert segment_of(values, coronary) == expected


def test_names_are_tidied() -> None:
    assert patient_of("ALL RISE 101-0025") == patient_of("101-0025") == "101-0025"
    assert phase_of({"vessel_pattern": "MID_RCA_FINAL"}) == "FINAL"
    assert phase_of({"phase": "PRE", "vessel_pattern": "x FINAL"}) == "PRE"


def test_unknown_columns_are_kept_unless_they_look_like_identity(
    tmp_path: Path, coronary: LabelSet
) -> None:
    values = {
        "patient_id": "101-0025", "dicom_path": "a.dcm", "operator_grade": "B",
        "patient_name": "Ada", "birthdate": "1950", "remark": "see 101-0025",
    }  # fmt: skip
    row = parse_row(values, 2, tmp_path, coronary, CsvOptions())
    assert row.extra == {"operator_grade": "B"}


@pytest.mark.parametrize(
    ("text", "axis", "degrees"),
    [("RAO 30", "primary", -30.0), ("LAO 30", "primary", 30.0), ("CAU 20", "secondary", -20.0),
     ("cran 15.5", "secondary", 15.5), (-12, "primary", -12.0), ("12", "primary", 12.0),
     ("rao30°", "primary", -30.0), ("steep", "primary", None), (None, "primary", None),
     ("CRA 20", "primary", None), ("RAO -30", "primary", None), (True, "primary", None),
     (float("nan"), "primary", None), (200, "primary", None), ("1e2", "primary", None)],
)  # fmt: skip
def test_angles_may_be_words(text: object, axis: Axis, degrees: float | None) -> None:
    assert angle_deg(text, axis) == degrees


def test_the_sign_setting_turns_numbers_but_not_words() -> None:
    assert angle_deg("30", "primary", "rao-positive") == -30
    assert angle_deg("LAO 30", "primary", "rao-positive") == 30
    assert angle_deg("30", "secondary", "rao-positive") == 30


def test_damaged_contours_are_refused(tmp_path: Path, study: tuple[Path, StudyTruth]) -> None:
    path = tmp_path / "c.json"
    with pytest.raises(DataError, match="not there"):
        read_contours(path)
    path.write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_contours(path)
    path.write_text('{"left_edge": [[1, 2]], "right_edge": "x"}')
    with pytest.raises(DataError, match="right_edge"):
        read_contours(path)
    path.write_text('{"left_edge": [[1, 2]], "right_edge": [[1, 2], [3, 4]]}')
    with pytest.raises(DataError, match="1 and 2 points"):
        read_contours(path)
    good = next((study[0] / "contours").glob("*.json"))
    shutil.copy(good, path)
    found = read_contours(path)
    payload = json.loads(path.read_text())
    assert found.frame == payload["frame_num"]
    assert found.spacing is not None
    assert found.spacing.source == "calibrated"
    with pytest.raises(MaskError, match="never resized"):
        found.bitmap((4, 4))
    turned = {**payload, "right_edge": payload["right_edge"][::-1]}
    path.write_text(json.dumps(turned))
    with pytest.raises(DataError, match="opposite directions"):
        read_contours(path)
    path.write_text(
        json.dumps({**payload, "view_angles": {"primary_angle": "up", "secondary_angle": 1}})
    )
    with pytest.raises(DataError, match="view_angles"):
        read_contours(path)
    path.write_text(
        json.dumps(
            {**payload, "view_angles": {"primary_angle": "RAO 30", "secondary_angle": "CRA 20"}}
        )
    )
    assert str(read_contours(path).view) == "RAO 30 cranial 20"
