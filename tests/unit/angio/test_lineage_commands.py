"""`casebook check` and `casebook diff`: what they say, and their exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from angio.cli import main
from casebook.annotations import Origin, write_annotations
from casebook.cases import Split
from casebook.catalogue import Catalogue
from casebook.documents import write_document
from casebook.home import Home
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from tests.unit.angio.small_study import CORONARY, add_case, drawn, study


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _entry(home: Home, case_id: str) -> ManifestCase:
    case = Catalogue(home).get(case_id)
    return ManifestCase(
        at=case.ref, patient=case.patient, split=case.split, image_sha256=case.image_sha256
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    place = study(tmp_path / "home")
    for number, row in ((1, 4), (2, 6)):
        folder = RoundFolder(place, number)
        manifest = Manifest(
            round=number, labels=CORONARY, strategy="order", seed=1,
            cases=(_entry(place, "one"),), val=(_entry(place, "val"),),
            test=(_entry(place, "tst"),), created="2026-01-01T00:00:00Z",
        )  # fmt: skip
        write_document(folder.file("manifest.json"), manifest)
        masks = drawn(Catalogue(place).get("one"), {"mid LAD": row}, Origin.HUMAN)
        write_annotations(folder.file("annotations.coco.json"), masks)
    return place


def test_a_sound_workspace_passes(home: Home) -> None:
    told = _run("check", "--home", home.root)
    assert told.exit_code == 0
    assert told.stdout.startswith("4 cases of 4 patients, 2 rounds: 0 leaks\n")
    report = json.loads(_run("check", "--home", home.root, "--json").stdout)
    assert report["leaks"]["leaks"] == []
    assert [one["frames"] for one in report["rounds"]] == [3, 3]


def test_a_leak_fails_with_the_cases_named(home: Home) -> None:
    twin = Catalogue(home).get("tst").image_sha256
    case = add_case(home, "twin", Split.TRAIN, {"OM1": 5}, seed=int.from_bytes(b"tst", "big"))
    assert case.image_sha256 == twin
    told = _run("check", "--home", home.root)
    assert told.exit_code == 3
    assert "pixels in two splits" in told.stderr
    assert "twin in train" in told.stderr
    report = json.loads(_run("check", "--home", home.root, "--json").stdout)
    assert len(report["leaks"]["leaks"]) == 2


def test_a_changed_frame_fails(home: Home) -> None:
    Catalogue(home).frame_path(Catalogue(home).get("val").ref).write_bytes(b"other")
    told = _run("check", "--home", home.root)
    assert told.exit_code == 3
    assert "2 frames are missing or changed" in told.stderr


def test_two_rounds_are_compared(home: Home) -> None:
    told = _run("diff", 1, 2, "--home", home.root)
    assert told.exit_code == 0
    assert "masks in both: 0 the same, 1 changed" in told.stdout
    assert "one.f00000.png  mid LAD: redrawn IoU 0.333 (human → human)" in told.stdout
    found = json.loads(_run("diff", 1, 2, "--home", home.root, "--json").stdout)
    assert found["changes"][0]["iou"] == pytest.approx(1 / 3)
    assert _run("diff", 1, 1, "--home", home.root).stdout.endswith("1 the same, 0 changed\n")
    missing = _run("diff", 1, 3, "--home", home.root)
    assert missing.exit_code == 6
    assert missing.stderr.count("\n") == 1
