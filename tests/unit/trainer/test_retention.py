"""Pruning: what is in use and what it comes from stays, whatever its age."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner

from casebook.documents import read_lines, write_document
from casebook.errors import BusyError, ModelError
from casebook.home import AuditEntry, Home, locked
from casebook.registry import PRUNED, ModelCard, Registry
from casebook.rounds import RoundFolder
from casebook.specialists import Specialist, Specialists, write_specialists
from trainer.cli import main
from trainer.requests import ask
from trainer.results import Candidate
from trainer.retention import plan_for, prune

START = datetime(2026, 1, 1, tzinfo=UTC)


def add(
    home: Home,
    model_id: str,
    *parents: str,
    kind: Literal["base", "teacher", "student"] = "teacher",
) -> None:
    registry = Registry(home)
    card = ModelCard(
        model_id=model_id,
        kind=kind,
        architecture="tiny",
        parents=parents,
        created=START + timedelta(days=len(registry.cards())),
        n_params=1,
        licence="Apache-2.0",
    )
    registry.add(card, {"adapter.safetensors": model_id.encode() * 100})
    if kind == "student":
        bundle = home.models / "released" / model_id
        bundle.mkdir(parents=True)
        for name in ("manifest.json", "encoder.onnx"):
            (bundle / name).write_text("{}")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Teachers a → b → c → d, e from b alone; student s of b in use, t of a not."""
    home = Home(tmp_path)
    add(home, "base", kind="base")
    for child, parent in (("a", "base"), ("b", "a"), ("c", "b"), ("d", "c"), ("e", "b")):
        add(home, child, parent)
    add(home, "t", "d", kind="student")
    add(home, "s", "b", kind="student")
    registry = Registry(home)
    registry.promote("c", "better")
    registry.release("t", "first")
    registry.release("s", "passes")
    return home


def ids(entries: Iterable[object]) -> list[str]:
    return [str(vars(entry)["model_id"]) for entry in entries]


def test_the_teacher_and_student_in_use_stay_with_all_they_come_from(home: Home) -> None:
    found = prune(home, keep=0, reason="disk")
    assert ids(found.leaving) == ["d", "e", "t"]
    assert {kept.model_id: kept.reason for kept in found.kept} == {
        "base": "a comes from it",
        "a": "b comes from it",
        "b": "c comes from it",
        "c": "the teacher in use",
        "s": "the student in use",
    }
    registry = Registry(home)
    for model_id in ("base", "a", "b", "c", "s"):
        registry.verify(model_id)
    for model_id in ("d", "e", "t"):
        assert registry.card(model_id).parents, "the card is gone with the weights"
        with pytest.raises(ModelError, match="weights were pruned"):
            registry.promote(model_id, "by hand")
    assert registry.promoted() == "c"
    with pytest.raises(ModelError, match="export it first"):
        registry.release("t", "again")
    log = read_lines(home.root / "audit.jsonl", AuditEntry)
    assert [(one.subject, one.reason) for one in log if one.action == "prune"] == [
        ("d", "disk"), ("e", "disk"), ("t", "disk"),
    ]  # fmt: skip
    assert prune(home, keep=0).leaving == ()


def test_the_newest_stay_and_a_students_teacher_with_it(home: Home) -> None:
    found = plan_for(home, keep=2)
    assert found.leaving == ()
    reasons = {kept.model_id: kept.reason for kept in found.kept}
    assert reasons["e"] == "one of the newest 2 teachers"
    assert reasons["t"] == "one of the newest 2 students"
    assert ids(plan_for(home, keep=1).leaving) == ["d", "t"]


def test_what_a_rollback_goes_to_and_what_answers_for_a_vessel_stays(home: Home) -> None:
    Registry(home).promote("d", "better")
    Registry(home).promote("a", "by hand")
    specialist = Specialist(model_id="e", vessel="RCA")
    write_specialists(home, Specialists(specialists=(specialist,)))
    reasons = {kept.model_id: kept.reason for kept in plan_for(home, keep=0).kept}
    assert reasons["d"] == "what a rollback goes to"
    assert reasons["e"] == "answers for RCA"
    assert reasons["a"] == "the teacher in use"


def test_what_a_round_still_needs_stays(home: Home) -> None:
    candidate = Candidate(
        round=2, model_id="e", incumbent="d", init_from="b", base="base", manifest_sha256="0",
        annotations_sha256=(), rounds=(1, 2), images=1, rejected=0, masks_by_origin={}, steps=1,
        seconds=1.0, config={}, created=START,
    )  # fmt: skip
    folder = RoundFolder(home, 2)
    write_document(folder.file("candidate.json"), candidate)
    assert ids(plan_for(home, keep=0).leaving) == ["t"]
    folder.file("report.json").write_text("{}")
    assert ids(plan_for(home, keep=0).leaving) == ["d", "e", "t"]


def test_nothing_goes_while_a_round_is_worked_on_or_a_promotion_is_under_way(
    home: Home, tmp_path: Path
) -> None:
    ask(RoundFolder(home, 2), ("train",), tmp_path, ())
    with pytest.raises(BusyError, match="round 02 is being worked on"):
        prune(home, keep=0)
    RoundFolder(home, 2).file("request.json").unlink()
    with (
        locked(home.models / ".lock", "a promotion"),
        pytest.raises(BusyError, match="models in use"),
    ):
        prune(home, keep=0)
    assert ids(plan_for(home, keep=0).leaving) == ["d", "e", "t"]


def test_a_pruning_that_was_killed_goes_on_and_a_model_made_again_is_whole(home: Home) -> None:
    folder = Registry(home).folder("d")
    (folder / PRUNED).write_text('{"schema": 1, "at": "2026-01-01T00:00:00Z"}')
    assert ids(prune(home, keep=0).leaving) == ["d", "e", "t"]
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", PRUNED]
    registry = Registry(home)
    registry.add(registry.card("d"), {"adapter.safetensors": b"again"})
    registry.verify("d")


def test_what_a_model_saw_in_cases_goes_with_it(home: Home) -> None:
    kept, gone = (home.descriptors / name / "case-1.safetensors" for name in ("c", "e"))
    for path in (kept, gone):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"vector")
    leaving = {entry.model_id for entry in prune(home, keep=0).leaving}
    assert "e" in leaving
    assert "c" not in leaving
    assert kept.exists()
    assert not gone.parent.exists()


def test_a_dry_run_only_says_what_would_go(home: Home) -> None:
    arguments = ["prune", "--keep", "0", "--home", str(home.root)]
    said = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert said.exit_code == 0, said.output
    leaving = json.loads(said.output)["leaving"]
    assert [entry["model_id"] for entry in leaving] == ["d", "e", "t"]
    assert leaving[0]["size_bytes"] == 100
    Registry(home).verify("d")
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "3 models" in done.output
    listed = CliRunner().invoke(main, ["models", "--home", str(home.root)])
    marks = {line.split()[1]: line[0] for line in listed.output.splitlines() if line[0] != " "}
    assert marks == {"c": "*", "d": "-", "e": "-", "t": "-"}
