"""Doubtful frames are held for a person, and the next import follows the ruling."""

import csv
import json
import stat
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw

from angio.cli import main
from angio.importing import import_csv
from angio.intake import ImportReport, Pictures
from angio.review import Desk, read_held, read_rulings, rule
from casebook.catalogue import Catalogue, read_png
from casebook.documents import read_lines
from casebook.errors import DataError, DeidError, StateError
from casebook.home import AuditEntry, Home
from casebook.labels import LabelSet


def _doubtful() -> np.ndarray:
    """A faint word in the middle of a smooth ground: letters, but not where overlays are."""
    y, x = np.mgrid[:256, :256]
    ground = 120 + 40 * np.sin(x / 40) + 30 * np.cos(y / 60)
    noisy = ground + np.random.default_rng(4).normal(0, 3, ground.shape)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    ImageDraw.Draw(image).text((96, 120), "DOE^JANE", fill=255)
    return np.array(image, dtype=np.uint8)


def _folder(tmp_path: Path) -> Path:
    """A CSV of one row whose cine carries the word."""
    folder = tmp_path / "study"
    folder.mkdir()
    np.save(folder / "run.npy", np.stack([_doubtful()] * 3))
    with (folder / "cases.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient_id", "row_id", "cine_path", "frame_index"])
        writer.writerow(["101-0025", "r1", "run.npy", "1"])
    return folder


def _import(folder: Path, home: Home, labels: LabelSet, **options: bool) -> ImportReport:
    return import_csv(folder / "cases.csv", home, labels, **options)


def test_doubtful_frames_are_held_and_nothing_is_catalogued(
    tmp_path: Path, coronary: LabelSet
) -> None:
    home = Home(tmp_path / "home")
    report = _import(_folder(tmp_path), home, coronary)
    (held,) = read_held(home)
    assert (report.imported, len(report.problems)) == (0, 1)
    assert held.held_id in report.problems[0].message
    assert Catalogue(home).count() == 0
    kept = [path for path in (home.private / "held").rglob("*") if path.is_file()]
    assert len(kept) == 1 + len(held.boxes_xyxy)
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


def test_a_dry_run_names_the_held_case_and_keeps_nothing(
    tmp_path: Path, coronary: LabelSet
) -> None:
    home = Home(tmp_path / "home")
    report = _import(_folder(tmp_path), home, coronary, dry_run=True)
    assert "Held as h" in report.problems[0].message
    assert not home.private.exists()


def test_a_case_ruled_clean_comes_in_untouched(tmp_path: Path, coronary: LabelSet) -> None:
    home, folder = Home(tmp_path / "home"), _folder(tmp_path)
    _import(folder, home, coronary)
    (held,) = read_held(home)
    rule(home, held.held_id, "clean", reason="a scale, no name")
    assert read_held(home) == []
    assert not (home.private / "held" / held.held_id).exists()
    report = _import(folder, home, coronary)
    (case,) = Catalogue(home).cases()
    assert report.imported == 1
    assert case.deid is not None
    assert (case.deid.pixel_text, case.deid.masked_boxes_xyxy) == ("ruled clean", ())


def test_a_case_ruled_to_be_masked_comes_in_painted_over(
    tmp_path: Path, coronary: LabelSet
) -> None:
    home, folder = Home(tmp_path / "home"), _folder(tmp_path)
    _import(folder, home, coronary)
    (held,) = read_held(home)
    box = (90, 116, 160, 136)
    rule(home, held.held_id, "mask", boxes=[box], reason="a name")
    _import(folder, home, coronary)
    catalogue = Catalogue(home)
    (case,) = catalogue.cases()
    assert case.deid is not None
    assert (case.deid.pixel_text, case.deid.masked_boxes_xyxy) == ("masked", (box,))
    for frame in case.stored_frames:
        inside = read_png((catalogue.folder(case.case_id) / f"{frame:05d}.png").read_bytes())
        assert np.unique(inside.pixels[116:137, 90:161]).size == 1
    stored = np.asarray(Image.open(catalogue.stored_path(case.ref)))
    assert np.unique(stored[116:137, 90:161]).size == 1


def test_a_refused_case_stays_out_until_the_ruling_changes(
    tmp_path: Path, coronary: LabelSet
) -> None:
    home, folder = Home(tmp_path / "home"), _folder(tmp_path)
    _import(folder, home, coronary)
    (held,) = read_held(home)
    rule(home, held.held_id, "refuse", reason="unreadable")
    report = _import(folder, home, coronary)
    assert report.imported == 0
    assert "refused by a person" in report.problems[0].message
    assert read_held(home) == []
    rule(home, held.held_id, "clean", reason="looked again")
    assert _import(folder, home, coronary).imported == 1


def test_a_ruling_holds_for_these_pixels_only(tmp_path: Path) -> None:
    home = Home(tmp_path)
    frame = _doubtful()

    def pictures(pixels: np.ndarray) -> Pictures:
        made = Pictures(None, Desk.open(home))
        made.add(0, pixels, None)
        return made

    with pytest.raises(DeidError):
        _ = pictures(frame).frames
    (held,) = read_held(home)
    rule(home, held.held_id, "clean")
    assert pictures(frame).record("m").pixel_text == "ruled clean"
    other = frame.copy()
    other[0, 0] ^= 1
    with pytest.raises(DeidError, match="casebook deid review"):
        _ = pictures(other).frames


def test_the_same_ruling_twice_is_recorded_once(tmp_path: Path, coronary: LabelSet) -> None:
    home = Home(tmp_path / "home")
    _import(_folder(tmp_path), home, coronary)
    (held,) = read_held(home)
    for _ in range(2):
        rule(home, held.held_id, "refuse", reason="unreadable")
    lines = (home.private / "rulings.jsonl").read_text().splitlines()
    audit = read_lines(home.root / "audit.jsonl", AuditEntry)
    assert len(lines) == 1
    assert [entry.subject for entry in audit if entry.action == "deid rule"] == [held.held_id]
    assert stat.S_IMODE((home.private / "rulings.jsonl").stat().st_mode) == 0o600


def test_rulings_that_make_no_sense_are_refused(tmp_path: Path, coronary: LabelSet) -> None:
    home, folder = Home(tmp_path / "home"), _folder(tmp_path)
    _import(folder, home, coronary)
    (held,) = read_held(home)
    with pytest.raises(StateError, match="no case 'h000000000000' is held"):
        rule(home, "h000000000000", "clean")
    with pytest.raises(StateError, match="is held"):
        rule(home, "../held", "clean")
    with pytest.raises(DataError, match="leaves the picture of 256×256"):
        rule(home, held.held_id, "mask", boxes=[(0, 0, 256, 9)])
    with pytest.raises(DataError, match="expected boxes"):
        rule(home, held.held_id, "mask")
    with pytest.raises(DataError, match="expected boxes"):
        rule(home, held.held_id, "clean", boxes=[(0, 0, 5, 5)])
    assert read_rulings(home) == {}


def test_a_reason_never_carries_a_patients_id(tmp_path: Path, coronary: LabelSet) -> None:
    home, folder = Home(tmp_path / "home"), _folder(tmp_path)
    _import(folder, home, coronary)
    (held,) = read_held(home)
    rule(home, held.held_id, "clean")
    _import(folder, home, coronary)
    with pytest.raises(DataError, match="the audit is not private"):
        rule(home, held.held_id, "refuse", reason="it is 101-0025 again")
    assert "101-0025" not in (home.root / "audit.jsonl").read_text()


def test_the_commands_list_rule_and_import_again(tmp_path: Path, coronary: LabelSet) -> None:
    home, folder = Home(tmp_path / "home"), _folder(tmp_path)
    _import(folder, home, coronary)
    place = ["--home", str(home.root)]
    run = CliRunner()
    shown = run.invoke(main, ["deid", "review", "--json", *place])
    (held,) = json.loads(shown.stdout)
    assert held["held_id"] in run.invoke(main, ["deid", "review", *place]).output
    assert all(Path(crop).is_file() for crop in held["crop_paths"])
    none = run.invoke(main, ["deid", "rule", held["held_id"], *place])
    assert none.exit_code == 2
    assert "one of" in none.output
    both = run.invoke(main, ["deid", "rule", held["held_id"], "--clean", "--mask-found", *place])
    assert both.exit_code == 2
    bad = run.invoke(main, ["deid", "rule", held["held_id"], "--mask", "1,2,3", *place])
    assert bad.exit_code == 2
    assert "x1,y1,x2,y2" in bad.output
    done = run.invoke(
        main, ["deid", "rule", held["held_id"], "--mask-found", "--reason", "a name", *place]
    )
    assert done.exit_code == 0, done.output
    assert run.invoke(main, ["deid", "review", *place]).output.startswith("nothing is held")
    assert _import(folder, home, coronary).imported == 1
