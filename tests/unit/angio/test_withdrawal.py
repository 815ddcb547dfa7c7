"""A withdrawal takes a patient out of everything, whenever it is killed, and says what is left."""

import json
import os
import shutil
import signal
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from angio.cli import main
from angio.deident import Relink, add_relinks, read_relink
from angio.review import Desk, read_held
from angio.withdrawal import check_consent, forget
from casebook.annotations import AnnotationSetBuilder, Origin, read_annotations, write_annotations
from casebook.cases import Case, DeidRecord, FrameRef, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.corrections import Corrections, MaskChange
from casebook.documents import read_document, read_lines, sha256_of, sha256_of_file, write_document
from casebook.errors import BusyError, DataError, StateError
from casebook.home import AuditEntry, Home, locked
from casebook.labels import LabelSet
from casebook.masks import encode
from casebook.registry import ModelCard, Registry
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from casebook.tombstones import read_tombstones

NAME = "JANE^DOE-4711"
GONE, STAYS = "pgone00000001", "pstays0000001"
CASES = {"cgone1": GONE, "cgone2": GONE, "cstays1": STAYS}


def _case(case_id: str, patient: str, frame: bytes) -> Case:
    return Case(
        case_id=case_id, patient=patient, split=Split.TRAIN, source="csv", frame=0, n_frames=1,
        stored_frames=(0,), height_px=16, width_px=16, image_sha256=sha256_of(frame),
        deid=DeidRecord(method="m", pixel_text="none found"),
    )  # fmt: skip


def _card(model_id: str, kind: str, **more: object) -> ModelCard:
    return ModelCard.model_validate(
        {
            "model_id": model_id, "kind": kind, "architecture": "a", "n_params": 1,
            "created": datetime(2020, 1, 1, tzinfo=UTC), "licence": "x", **more,
        }
    )  # fmt: skip


def _workspace(root: Path, labels: LabelSet) -> Home:
    """Two patients; the first has two cases in round 2, which was pushed, pulled and trained."""
    home = Home(root)
    catalogue = Catalogue(home)
    entries = []
    for number, (case_id, patient) in enumerate(CASES.items()):
        frame = png_bytes(np.full((16, 16), 50 + number, dtype=np.uint8))
        case = _case(case_id, patient, frame)
        catalogue.add(case, {0: frame})
        entries.append(
            ManifestCase(
                at=case.ref, patient=patient, split=Split.TRAIN, image_sha256=case.image_sha256
            )
        )
        name = NAME if patient == GONE else "ROE^RICHARD"
        add_relinks(home, [Relink(patient, name, case_id, f"row {number}")])
    folder = RoundFolder(home, 2)
    created = datetime(2026, 1, 1, tzinfo=UTC)
    manifest = Manifest(
        round=2, labels=labels, strategy="order", seed=1, cases=tuple(entries), val=(), test=(),
        created=created,
    )  # fmt: skip
    write_document(folder.file("manifest.json"), manifest)
    builder = AnnotationSetBuilder(labels, {})
    bitmap = np.zeros((16, 16), dtype=bool)
    bitmap[4:9, 4:9] = True
    for case_id in CASES:
        image = builder.add_image(FrameRef(case_id=case_id, frame=0), (16, 16), status="ok")
        builder.add_mask(image, labels.labels[0].name, encode(bitmap), Origin.HUMAN)
    for name in ("annotations.coco.json", "proposals.coco.json"):
        write_annotations(folder.file(name), builder.build())
    changes = tuple(
        MaskChange(at=FrameRef(case_id=c, frame=0), label="x", outcome="accepted") for c in CASES
    )
    write_document(folder.file("corrections.json"), Corrections(round=2, changes=changes))
    frames = [f"{case_id}.f00000.png" for case_id in CASES]
    task = {"key": "k", "task_id": 7, "name": "n", "frames": frames, "masks": 3}
    folder.file("pushed.json").write_text(json.dumps({"url": "http://cvat", "tasks": [task]}))
    folder.file("pull").mkdir()
    shapes = [{"frame": n, "points": [n]} for n in range(3)]
    job = {"job_id": 1, "task_id": 7, "shapes": shapes, "tags": [], "notes": []}
    folder.file("pull/job-1.json").write_text(json.dumps(job))
    folder.file("report.html").write_text("<img cgone1>")
    registry = Registry(home)
    registry.add(_card("base", "base"), {})
    registry.add(_card("teacher-01", "teacher", round=1, parents=("base",)), {})
    registry.add(_card("teacher-02", "teacher", round=2, parents=("teacher-01",)), {})
    student = _card("student-1", "student", parents=("teacher-02",))
    registry.add(student, {})
    released = home.models / "released" / "1.0"
    released.mkdir(parents=True)
    (released / "manifest.json").write_text(json.dumps({"card": student.model_dump(mode="json")}))
    (home.descriptors / "teacher-01").mkdir(parents=True)
    for case_id in CASES:
        for name in (f"{case_id}.safetensors", f".{case_id}.safetensors.k1.tmp"):
            (home.descriptors / "teacher-01" / name).write_bytes(b"vector")
    frame = np.zeros((1, 16, 16), dtype=np.uint8)
    Desk.open(home).hold(frame, [(1, 1, 9, 9)], ["x"], patient=GONE, source=NAME)
    return home


def _state(home: Home) -> dict[str, str]:
    """Every file's content, with what tells the time left out."""
    told = {}
    for path in sorted(home.root.rglob("*")):
        name = path.relative_to(home.root).as_posix()
        if not path.is_file() or path.suffix in {".lock", ".owner"}:
            continue
        if name.startswith("cases/catalogue"):
            continue
        if path.suffix == ".tmp":  # a write that was killed; nothing of the patient may lie in it
            assert b"cgone" not in path.read_bytes()
            assert NAME.encode() not in path.read_bytes()
            continue
        if path.suffix == ".jsonl" or "withdrawals/" in name:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            parsed = [json.loads(line) for line in lines]
            for entry in parsed:
                entry.pop("at", None)
                entry.pop("begun", None)
            told[name] = json.dumps(parsed, sort_keys=True)
        else:
            told[name] = path.read_bytes().hex()
    told["catalogue"] = ",".join(case.case_id for case in Catalogue(home).cases())
    return told


def test_a_withdrawn_patient_is_gone_from_every_file(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    told = forget(home, GONE)
    assert told.done
    assert [case.case_id for case in Catalogue(home).cases()] == ["cstays1"]
    assert set(read_relink(home)) == {"cstays1"}
    assert read_held(home) == []
    folder = RoundFolder(home, 2)
    left = read_annotations(folder.file("annotations.coco.json"))
    assert [image.case_id for image in left.images] == ["cstays1"]
    assert len(left.annotations) == 1
    assert len(read_document(folder.file("corrections.json"), Corrections).changes) == 1
    assert [entry.patient for entry in folder.manifest().cases] == [STAYS]
    assert [
        s["frame"] for s in json.loads(folder.file("pull/job-1.json").read_text())["shapes"]
    ] == [2]
    assert not folder.has("report.html")
    allowed = {"rounds/02/pushed.json", f"private/withdrawals/{GONE}.json"}
    for path in home.root.rglob("*"):
        name = path.relative_to(home.root).as_posix()
        if path.is_file() and name not in allowed:
            payload = path.read_bytes()
            assert NAME.encode() not in payload, name
            assert b"cgone" not in payload, name
    assert not list(home.cases.glob("cgone*"))
    kept = sorted(path.name for path in home.descriptors.rglob("*.*"))
    assert kept == [".cstays1.safetensors.k1.tmp", "cstays1.safetensors"]


def test_models_and_copies_that_people_must_remove_are_listed(
    tmp_path: Path, coronary: LabelSet
) -> None:
    told = forget(_workspace(tmp_path, coronary), GONE)
    assert {(m.model_id, m.kind) for m in told.models} == {
        ("teacher-02", "teacher"),
        ("student-1", "student"),
        ("1.0", "released student"),
    }
    (copy,) = told.copies
    assert (copy.url, copy.task_id) == ("http://cvat", 7)
    assert copy.frames == ("cgone1.f00000.png", "cgone2.f00000.png")


def test_lineage_stays_checkable_by_tombstones(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    folder = RoundFolder(home, 2)
    sealed = folder.manifest_sha256()
    annotations = sha256_of_file(folder.file("annotations.coco.json"))
    forget(home, GONE)
    stones = {stone.file: stone for stone in read_tombstones(folder.path)}
    assert folder.manifest_sha256() == sealed
    assert sha256_of_file(folder.file("manifest.json")) != sealed
    assert stones["annotations.coco.json"].sha256_before == annotations
    assert stones["annotations.coco.json"].entries == 4
    assert stones["report.html"].sha256_after is None


def test_a_dry_run_tells_the_same_and_changes_nothing(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    before = _state(home)
    told = forget(home, GONE, dry_run=True)
    assert told.dry_run
    assert (len(told.cases), len(told.models), len(told.copies)) == (2, 3, 1)
    assert _state(home) == before


def test_a_second_run_changes_nothing(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    first = forget(home, GONE)
    before = _state(home)
    assert forget(home, GONE) == first
    assert _state(home) == before


def test_the_audit_names_the_pseudonym_once_and_no_patient(
    tmp_path: Path, coronary: LabelSet
) -> None:
    home = _workspace(tmp_path, coronary)
    forget(home, GONE)
    entries = read_lines(home.root / "audit.jsonl", AuditEntry)
    assert [entry.subject for entry in entries if entry.action == "forget"] == [GONE]
    journal = home.private / "withdrawals" / f"{GONE}.json"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert NAME not in journal.read_text()


def test_a_withdrawn_patient_does_not_come_back(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    check_consent(home, GONE)
    forget(home, GONE)
    check_consent(home, STAYS)
    with pytest.raises(DataError, match="has withdrawn"):
        check_consent(home, GONE)


def test_unknown_patients_and_two_at_once_are_refused(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    with pytest.raises(StateError, match="is not in"):
        forget(home, "pnobody000001")
    with pytest.raises(StateError, match="no pseudonym"):
        forget(home, "../../etc")
    with (
        locked(home.private / "withdrawal.lock", "a withdrawal"),
        pytest.raises(BusyError, match="already running"),
    ):
        forget(home, GONE)
    assert Catalogue(home).count() == 3


def test_a_torn_document_stops_before_anything_of_the_case_is_lost(
    tmp_path: Path, coronary: LabelSet
) -> None:
    home = _workspace(tmp_path, coronary)
    RoundFolder(home, 2).file("pull/job-1.json").write_text('{"task_id": 7, "sha')
    with pytest.raises(DataError, match="is not JSON"):
        forget(home, GONE)
    assert Catalogue(home).count() == 3
    RoundFolder(home, 2).file("pull/job-1.json").unlink()
    assert forget(home, GONE).done
    assert Catalogue(home).count() == 1


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.chmod", "os.mkdir", "sqlite3.connect"}


def _killed_at(home: Home, change: int) -> bool:
    """Run a withdrawal in a child that kills itself at its n-th change; whether it got there."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(event: str, args: tuple[object, ...]) -> None:
            nonlocal seen
            writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_WRONLY
            if event in _CHANGES or writes:
                seen += 1
                if seen == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            forget(home, GONE)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_instant_and_a_second_run_end_the_same(
    tmp_path: Path, coronary: LabelSet
) -> None:
    template = _workspace(tmp_path / "template", coronary).root
    whole = Home(Path(shutil.copytree(template, tmp_path / "whole")))
    forget(whole, GONE)
    expected = _state(whole)
    kills, change = 0, 1
    while True:
        home = Home(Path(shutil.copytree(template, tmp_path / f"at{change}")))
        if not _killed_at(home, change):
            break
        kills += 1
        told = forget(home, GONE)
        assert told.done
        assert len(told.models) == 3
        assert _state(home) == expected, change
        audit = read_lines(home.root / "audit.jsonl", AuditEntry)
        assert [entry.action for entry in audit].count("forget") == 1
        change += 1
    assert kills > 20


def test_the_command_prints_what_people_must_do(tmp_path: Path, coronary: LabelSet) -> None:
    home = _workspace(tmp_path, coronary)
    run = CliRunner()
    place = ["--home", str(home.root)]
    dry = run.invoke(main, ["forget", GONE, "--dry-run", *place])
    assert "2 cases would be removed" in dry.output
    shown = run.invoke(main, ["forget", GONE, *place])
    assert shown.exit_code == 0, shown.output
    assert "task 7: delete the frames cgone1" in shown.output
    assert "teacher-02" in shown.output
    again = run.invoke(main, ["forget", GONE, "--json", *place])
    assert json.loads(again.stdout)["done"] is True
    assert NAME not in dry.output + shown.output + again.output
