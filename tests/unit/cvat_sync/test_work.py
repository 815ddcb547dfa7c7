"""A manifest gone through case by case says what the whole manifest says, and keeps nothing."""

import json
import tracemalloc
from pathlib import Path

import pytest

from casebook.documents import write_document
from casebook.errors import DataError, StateError
from casebook.rounds import Manifest, RoundFolder
from cvat_sync import pieces as module
from cvat_sync.work import ManifestFile, read_work
from tests.fakes.cvat_round import make_round


def changed(folder: RoundFolder, **fields: object) -> RoundFolder:
    manifest = folder.manifest().with_(**fields)
    folder.file("manifest.json").unlink()
    write_document(folder.file("manifest.json"), manifest)
    return folder


@pytest.mark.parametrize("piece", [1, 7, 1 << 18])
def test_pieces_of_any_size_say_the_same(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE_BYTES", piece)
    folder = make_round(tmp_path, 4)
    labels = folder.manifest().labels.with_(name="Gefäße – 血管")
    whole = changed(folder, labels=labels).manifest()
    found = read_work(folder)
    assert (found.round, found.labels) == (whole.round, whole.labels)
    assert tuple(found.cases) == whole.cases
    assert tuple(found.cases) == whole.cases


def test_frozen_cases_are_not_taken_for_the_rounds_own(tmp_path: Path) -> None:
    folder = make_round(tmp_path, 4)
    cases = folder.manifest().cases
    found = read_work(changed(folder, cases=cases[:1], val=cases[1:3], test=cases[3:]))
    assert tuple(found.cases) == cases[:1]


def test_many_cases_take_a_fraction_of_the_memory_of_all(tmp_path: Path) -> None:
    folder = make_round(tmp_path, 1)
    (case,) = folder.manifest().cases
    at = [case.at.with_(frame=number) for number in range(3000)]
    changed(folder, cases=tuple(case.with_(at=one) for one in at))

    def peak_of(kind: type[Manifest] | type[ManifestFile]) -> int:
        tracemalloc.start()
        found = folder.manifest() if kind is Manifest else read_work(folder)
        assert sum(1 for _ in found.cases) == 3000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_of(ManifestFile) < peak_of(Manifest) / 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "expected '{' at byte 0", id="empty"),
        pytest.param('{"schema": 1, "cases": [', "damaged", id="cut off"),
        pytest.param('{"schema": 1, "colour": 2}', "Extra inputs|round: Field", id="another field"),
        pytest.param('{"schema": 9}', "schema: ", id="a later schema"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        ManifestFile(path)


def test_a_damaged_case_is_refused_when_its_turn_comes(tmp_path: Path) -> None:
    folder = make_round(tmp_path, 3)
    body = json.loads(folder.file("manifest.json").read_text())
    del body["cases"][2]["patient"]
    folder.file("manifest.json").write_text(json.dumps(body))
    with pytest.raises(DataError, match="patient: Field required; restore it"):
        list(read_work(folder).cases)


def test_a_round_without_a_manifest_says_what_to_run(tmp_path: Path) -> None:
    folder = make_round(tmp_path, 1)
    folder.file("manifest.json").unlink()
    with pytest.raises(StateError, match="cvatsync push --round 2"):
        read_work(folder)
