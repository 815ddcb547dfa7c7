"""Free text of the lab's CSV that repeats who the header says the patient is."""

import csv
import shutil
from pathlib import Path

import pydicom
import pytest

from angio.dicom.identity import names_somebody, naming_words
from angio.importing import import_csv
from angio.phantoms.truth import StudyTruth
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.labels import LabelSet


def test_a_name_in_free_text_never_reaches_the_catalogue(
    study: tuple[Path, StudyTruth], tmp_path: Path, coronary: LabelSet
) -> None:
    folder = tmp_path / "study"
    shutil.copytree(study[0], folder)
    with (folder / "cases.csv").open(newline="") as stream:
        row = next(iter(csv.DictReader(stream)))
    name = str(pydicom.dcmread(folder / row["dicom_path"]).PatientName)
    family = name.split("^")[0]
    row |= {
        "reader_note": f"spoke to Mrs {family.upper()} at noon",
        "quality": "good, spoke to nobody",
        "phase": f"PRE {family}",
    }
    with (folder / "one.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(row))
        writer.writeheader()
        writer.writerow(row)
    home = Home(tmp_path / "home")
    report = import_csv(folder / "one.csv", home, coronary)
    assert report.imported == 1
    (case,) = Catalogue(home).cases()
    assert case.extra["quality"] == "good, spoke to nobody"
    assert "reader_note" not in case.extra
    assert case.phase is None
    told = " ".join(report.notes)
    assert "column reader_note repeats a name or number of the header; left out" in told
    assert family.casefold() not in told.casefold()
    outside = [p for p in home.root.rglob("*") if p.is_file() and home.private not in p.parents]
    assert outside
    for path in outside:
        assert family.encode() not in path.read_bytes(), path
        assert family.upper().encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("seen by Muster", True),
        ("MUSTER-2", True),
        ("number 101-0042", False),
        ("ID4711", True),
        ("born 19500102", True),
        ("Dr A", False),
        ("mustering", False),
    ],
)
def test_words_are_compared_whole_and_in_any_case(text: str, is_named: bool) -> None:
    ds = pydicom.Dataset()
    ds.PatientName = "Muster^Maria^^Dr"
    ds.PatientID = "ID4711"
    ds.PatientBirthDate = "19500102"
    inner = pydicom.Dataset()
    inner.ReferringPhysicianName = "Deep^Nested"
    ds.ReferencedStudySequence = [inner]
    assert "nested" in naming_words(ds)
    assert names_somebody(text, naming_words(ds)) is is_named
