"""Identity stays in private/: keys, pseudonyms, the re-link table."""

import stat
from pathlib import Path

import pytest

from angio.deident import (
    Relink,
    add_relinks,
    key_of,
    pseudonym,
    read_relink,
    remapped_uid,
    shift_days,
)
from angio.phantoms.truth import StudyTruth
from casebook.catalogue import Catalogue
from casebook.errors import ConfigError
from casebook.home import Home


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    home = Home(tmp_path)
    key = key_of(home)
    assert len(key) == 32
    assert key_of(home) == key
    assert stat.S_IMODE((home.private / "key").stat().st_mode) == 0o600


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.private.mkdir()
    (home.private / "key").write_text("spoilt")
    with pytest.raises(ConfigError, match="restore it"):
        key_of(home)
    assert (home.private / "key").read_text() == "spoilt"


def test_pseudonyms_depend_on_the_key_and_hide_the_id() -> None:
    first, second = bytes(32), bytes([1]) * 32
    assert pseudonym(first, "101-0025") == pseudonym(first, "101-0025")
    assert pseudonym(first, "101-0025") != pseudonym(second, "101-0025")
    assert pseudonym(first, "101-0025") != pseudonym(first, "101-0026")
    assert "0025" not in pseudonym(first, "101-0025")
    assert remapped_uid(first, "1.2.3").startswith("2.25.")
    assert len(remapped_uid(first, "1.2.3")) <= 64
    assert 1 <= shift_days(first, "101-0025") <= 3650


def test_the_relink_table_grows_and_is_private(tmp_path: Path) -> None:
    home = Home(tmp_path)
    add_relinks(home, [Relink("p1", "101-0001", "c1", "r1")])
    add_relinks(home, [Relink("p2", "101-0002", "c2", "r2"), Relink("p1", "101-0001", "c1", "r9")])
    table = read_relink(home)
    assert sorted(table) == ["c1", "c2"]
    assert table["c1"].source_row == "r9"
    assert stat.S_IMODE((home.private / "relink.csv").stat().st_mode) == 0o600


def test_nothing_of_a_patient_leaves_private(
    workspace: Catalogue, study: tuple[Path, StudyTruth]
) -> None:
    patients = {case.patient_id for case in study[1].cases if case.split != "unseen"}
    files = [path for path in workspace.folder("x").parent.rglob("*") if path.is_file()]
    assert len(patients) == 3
    assert len(files) > 40
    for path in files:
        payload = path.read_bytes()
        for patient in patients:
            assert patient.encode() not in payload
            assert patient not in path.name
        assert b"Invented" not in payload
