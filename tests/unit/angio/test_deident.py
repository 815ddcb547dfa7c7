"""Identity stays in private/: keys, pseudonyms, the re-link table, and text burned into pixels."""

import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from angio.deident import (
    Relink,
    add_relinks,
    check_pixels,
    key_of,
    pseudonym,
    read_relink,
    remapped_uid,
    shift_days,
    text_boxes,
)
from angio.phantoms.truth import StudyTruth
from casebook.catalogue import Catalogue
from casebook.errors import ConfigError, DeidError
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


def _picture(rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:256, :256]
    return np.clip(
        120 + 40 * np.sin(x / 40) + 30 * np.cos(y / 60) + rng.normal(0, 9, (256, 256)), 0, 255
    )


@pytest.mark.parametrize(
    ("level", "corner"),
    [
        (255, (6, 6)),
        (255, (150, 8)),
        (255, (8, 236)),
        (255, (140, 238)),
        (0, (6, 6)),
        (0, (8, 236)),
    ],
)
def test_drawn_letters_are_found(level: int, corner: tuple[int, int]) -> None:
    image = Image.fromarray(_picture(np.random.default_rng(1)).astype(np.uint8))
    ImageDraw.Draw(image).text(corner, "DOE^JANE 1950", fill=level)
    pixels = np.array(image, dtype=np.uint8)
    x1, y1, x2, _ = text_boxes(pixels)[0]
    assert abs(y1 - corner[1]) < 12
    assert x2 - x1 > 20
    with pytest.raises(DeidError, match="burned-in text"):
        check_pixels(pixels, "frame 0")


def test_pictures_without_letters_pass() -> None:
    plain = _picture(np.random.default_rng(2)).astype(np.uint8)
    assert text_boxes(plain) == ()
    plain[:, :7] = 0
    plain[:6] = 0
    assert text_boxes(plain) == ()


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
