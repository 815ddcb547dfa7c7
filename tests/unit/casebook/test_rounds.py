"""A round's state is which of its files exist."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from casebook.cases import FrameRef, Split
from casebook.documents import sha256_of_file, write_document
from casebook.errors import DataError, StateError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.rounds import STEPS, Manifest, ManifestCase, RoundFolder


def entry(case_id: str, patient: str, split: Split) -> ManifestCase:
    at = FrameRef(case_id=case_id, frame=0)
    return ManifestCase(at=at, patient=patient, split=split, image_sha256="0")


def manifest(test_patient: str = "p3") -> Manifest:
    return Manifest(
        round=2,
        labels=LabelSet(name="x", labels=(Label(name="a"),)),
        strategy="order",
        seed=1,
        cases=(entry("c1", "p1", Split.TRAIN),),
        val=(entry("c2", "p2", Split.VAL),),
        test=(entry("c3", test_patient, Split.TEST),),
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    return RoundFolder(Home(tmp_path), 2)


def test_the_state_is_the_last_file_there(folder: RoundFolder) -> None:
    assert folder.state() == "empty"
    folder.path.mkdir(parents=True)
    for step in STEPS:
        folder.file(step).touch()
        assert folder.state() == step
        assert folder.has(step)


def test_a_missing_file_says_what_to_run(folder: RoundFolder) -> None:
    with pytest.raises(StateError, match=r"round 02: manifest\.json is not there \(state: empty\)"):
        folder.manifest()
    with pytest.raises(StateError, match="Run the selection first"):
        folder.manifest_sha256()
    with pytest.raises(StateError, match="push it"):
        folder.need("pushed.json", "push it")


def test_the_manifest_reads_back_and_has_an_identity(folder: RoundFolder) -> None:
    write_document(folder.file("manifest.json"), manifest())
    assert folder.manifest() == manifest()
    assert folder.manifest_sha256() == sha256_of_file(folder.file("manifest.json"))


@pytest.mark.parametrize("patient", ["p1", "p2"])
def test_a_patient_in_two_splits_is_a_leak(patient: str) -> None:
    manifest().check_leaks()
    with pytest.raises(DataError, match=f"patients in two splits: {patient}"):
        manifest(patient).check_leaks()


def test_progress_is_a_journal(folder: RoundFolder) -> None:
    assert folder.events() == []
    folder.event("train", "step 1", 0.5, {"loss": 0.3})
    folder.event("train", "done")
    first, second = folder.events()
    assert (first.message, first.fraction, first.values) == ("step 1", 0.5, {"loss": 0.3})
    assert (second.fraction, second.values) == (None, {})
