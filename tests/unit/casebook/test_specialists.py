"""Which model answers for which view."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from casebook.cases import View
from casebook.errors import DataError
from casebook.home import Home
from casebook.specialists import Specialist, Specialists, read_specialists, write_specialists

RCA = Specialist(model_id="rca", vessel="RCA", primary_deg=(20, 60), secondary_deg=(-15, 15))
LEFT = Specialist(model_id="left", vessel="LCX", primary_deg=(-60, 20))
BOTH = Specialists(specialists=(RCA, LEFT))


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        pytest.param(View(primary_deg=45, secondary_deg=0), "rca", id="inside"),
        pytest.param(View(primary_deg=20, secondary_deg=15), "rca", id="the first of two, border"),
        pytest.param(View(primary_deg=-30, secondary_deg=-40), "left", id="any tilt"),
        pytest.param(View(primary_deg=45, secondary_deg=40), None, id="nobody's"),
        pytest.param(None, None, id="unknown"),
    ],
)
def test_a_view_has_its_model(view: View | None, expected: str | None) -> None:
    found = BOTH.choose(view)
    assert (found.model_id if found else None) == expected


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_specialists(Home(tmp_path)) == Specialists()


def test_they_are_read_as_written(tmp_path: Path) -> None:
    write_specialists(Home(tmp_path), BOTH)
    assert read_specialists(Home(tmp_path)) == BOTH


def test_angles_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"primary_deg goes from 60\.0 to 20\.0"):
        Specialist(model_id="m", vessel="RCA", primary_deg=(60, 20))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_specialists(Home(tmp_path), BOTH)
    path = tmp_path / "models" / "specialists.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(DataError, match=r"specialists.json is not a valid Specialists"):
        read_specialists(Home(tmp_path))
