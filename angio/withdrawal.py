"""A patient's withdrawal: what is removed, and what a person must still remove elsewhere.

Works on the files of a workspace by their form, so that it knows no model and no CVAT. A journal in
`private/withdrawals/` is written before the first change: a killed run is finished by the next.
"""

import json
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from angio.deident import read_relink, remove_relinks
from angio.review import forget_held
from angio.rounds_pruning import Pruned, copies_in, mentions, prune_round
from casebook.catalogue import Catalogue
from casebook.documents import Document, read_document, read_lines, write_bytes
from casebook.errors import DataError, StateError
from casebook.home import AuditEntry, Home, locked
from casebook.registry import ModelCard, Registry
from casebook.rounds import Manifest
from casebook.tombstones import read_tombstones

D = TypeVar("D", bound=Document)

_PSEUDONYM = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")


class TrainedModel(Document):
    """A model that saw the patient, and so cannot be undone by deleting files."""

    model_id: str
    kind: Literal["teacher", "student", "released student"]
    reason: str


class RemoteCopy(Document):
    """Frames of the patient in CVAT, which `casebook` cannot reach."""

    url: str
    task_id: int
    frames: tuple[str, ...]


class Withdrawal(Document):
    """What a withdrawal removed, and what it leaves to people."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    pseudonym: str
    cases: tuple[str, ...]
    models: tuple[TrainedModel, ...]
    copies: tuple[RemoteCopy, ...]
    pruned: tuple[Pruned, ...] = ()
    """Files of rounds that lost entries."""
    begun: datetime
    done: bool = False
    dry_run: bool = False


def _journal(home: Home, pseudonym: str) -> Path:
    return home.private / "withdrawals" / f"{pseudonym}.json"


def withdrawn(home: Home) -> frozenset[str]:
    """Pseudonyms of patients who have withdrawn: no import brings them back."""
    return frozenset(path.stem for path in (home.private / "withdrawals").glob("p*.json"))


def check_consent(home: Home, pseudonym: str) -> None:
    """Refuse a case of a patient who has withdrawn.

    Raises:
        DataError: names the pseudonym.
    """
    if _journal(home, pseudonym).exists():
        raise DataError(
            f"patient {pseudonym} has withdrawn; take the row or file out of the source"
        )


def forget(home: Home, pseudonym: str, *, dry_run: bool = False) -> Withdrawal:
    """Remove a patient from the workspace; a second run finds nothing left to do.

    Gone are the cases (frames, stored bits, catalogue rows, expert annotations, descriptors),
    their entries in every round's files, what was held for review and the re-link rows. Listed are
    the models that saw the patient and the copies in CVAT.

    Args:
        home: The workspace.
        pseudonym: As the catalogue names the patient.
        dry_run: Only say what would happen.

    Raises:
        StateError: no such patient, now or earlier.
        BusyError: another withdrawal is running.
    """
    if not _PSEUDONYM.match(pseudonym):
        raise StateError(f"{pseudonym!r} is no pseudonym; `casebook list --json` shows them")
    if dry_run:
        return _plan(home, pseudonym).with_(dry_run=True)
    home.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(home.private / "withdrawal.lock", "a withdrawal"):
        plan = _plan(home, pseudonym)
        if plan.done:
            return plan
        _write(home, plan)
        for path in _rounds(home):
            prune_round(path, plan.cases)
        Catalogue(home).remove(plan.cases)
        _remove_files(home, plan.cases)
        forget_held(home, pseudonym)
        remove_relinks(home, pseudonym)
        _audit(home, plan)
        finished = plan.with_(pruned=_pruned(home, plan), done=True)
        _write(home, finished)
    return finished


def _plan(home: Home, pseudonym: str) -> Withdrawal:
    """What a withdrawal is about: what the catalogue and an earlier run's journal say together."""
    path = _journal(home, pseudonym)
    before = read_document(path, Withdrawal) if path.exists() else None
    found = sorted(
        {case.case_id for case in Catalogue(home).cases() if case.patient == pseudonym}
        | {r.case_id for r in read_relink(home).values() if r.pseudonym == pseudonym}
    )
    if before is None and not found:
        raise StateError(
            f"patient {pseudonym} is not in {home.root}; `casebook list --json` shows who is"
        )
    if before is not None and not set(found) - set(before.cases):
        return before
    cases = tuple(sorted({*found, *(before.cases if before else ())}))
    return Withdrawal(
        pseudonym=pseudonym,
        cases=cases,
        models=_merged(before.models if before else (), _models(home, set(cases))),
        copies=_merged(before.copies if before else (), _copies(home, set(cases))),
        pruned=before.pruned if before else (),
        begun=datetime.now(UTC),
    )


def _merged(first: Iterable[D], second: Iterable[D]) -> tuple[D, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _rounds(home: Home) -> list[Path]:
    return sorted(path for path in (home.root / "rounds").glob("*") if path.is_dir())


def _trained_rounds(home: Home, cases: set[str]) -> set[int]:
    """Rounds whose new training cases include the patient's."""
    found = set()
    for path in _rounds(home):
        if (path / "manifest.json").exists():
            manifest = read_document(path / "manifest.json", Manifest)
            if any(entry.at.case_id in cases for entry in manifest.cases):
                found.add(manifest.round)
    return found


def _models(home: Home, cases: set[str]) -> list[TrainedModel]:
    """Models trained on the patient, their descendants, and students that saw the frames."""
    rounds = _trained_rounds(home, cases)
    found: dict[str, TrainedModel] = {}
    cards = Registry(home).cards()
    for card in cards:
        if (
            card.kind == "teacher"
            and card.round is not None
            and card.round >= min(rounds, default=10**6)
        ):
            seen = sorted(number for number in rounds if number <= card.round)
            why = f"trained in round {card.round} on the cases of round {seen[0]}"
            found[card.model_id] = TrainedModel(model_id=card.model_id, kind="teacher", reason=why)
    since = _imported(home, cases)
    for _ in cards:  # a descendant may be listed before its parent
        for card in cards:
            reason = _inherited(card, found, since)
            if card.model_id not in found and reason and card.kind != "base":
                found[card.model_id] = TrainedModel(
                    model_id=card.model_id, kind=card.kind, reason=reason
                )
    for path in sorted((home.models / "released").glob("*/manifest.json")):
        card = ModelCard.model_validate(json.loads(path.read_bytes())["card"])
        reason = _inherited(card, found, since)
        if reason:
            found[path.parent.name] = TrainedModel(
                model_id=path.parent.name, kind="released student", reason=reason
            )
    return list(found.values())


def _inherited(card: ModelCard, known: Mapping[str, TrainedModel], since: datetime | None) -> str:
    """Why a model without a round of its own counts, or nothing."""
    parent = next((parent for parent in card.parents if parent in known), None)
    if parent is not None:
        return f"made from {parent}"
    if card.model_id in known:
        return f"the release of {card.model_id}"
    if card.kind == "student" and since is not None and card.created >= since:
        return "distilled while the patient's frames were in the workspace"
    return ""


def _imported(home: Home, cases: set[str]) -> datetime | None:
    """When the patient's first frames were written."""
    times = [
        path.stat().st_mtime
        for case in cases
        for path in (home.cases / case).glob("*")
        if path.is_file()
    ]
    return datetime.fromtimestamp(min(times), UTC) if times else None


def _pruned(home: Home, plan: Withdrawal) -> tuple[Pruned, ...]:
    """What rounds lost since the withdrawal began, also to runs that were killed."""
    return tuple(
        Pruned(round=path.name, file=stone.file, entries=stone.entries)
        for path in _rounds(home)
        for stone in read_tombstones(path)
        if stone.at >= plan.begun
    )


def _copies(home: Home, cases: set[str]) -> list[RemoteCopy]:
    return [
        RemoteCopy(url=copy.url, task_id=copy.task_id, frames=copy.frames)
        for path in _rounds(home)
        for copy in copies_in(path, cases)
    ]


def _write(home: Home, plan: Withdrawal) -> None:
    payload = (plan.model_dump_json(indent=1) + "\n").encode()
    write_bytes(_journal(home, plan.pseudonym), payload, mode=0o600)


def _remove_files(home: Home, cases: Collection[str]) -> None:
    """The frames, and what an import or a push that was killed left of them."""
    for case in cases:
        for path in home.cases.glob(f"{case}*"):
            if path.is_dir():
                shutil.rmtree(path)
        for name in (f"{case}.safetensors", f".{case}.safetensors.*.tmp"):
            for path in home.descriptors.glob(f"*/{name}"):
                path.unlink(missing_ok=True)
    for path in (home.root / "rounds").glob("*/.push-*"):
        shutil.rmtree(path, ignore_errors=True)
    for folder in (home.root / "rounds", home.private):
        for path in folder.rglob(".*.tmp"):
            if mentions(path.read_bytes(), cases):
                path.unlink(missing_ok=True)


def _audit(home: Home, plan: Withdrawal) -> None:
    """One line for a withdrawal, also when the run before was killed after writing it."""
    for entry in read_lines(home.root / "audit.jsonl", AuditEntry):
        if (entry.action, entry.subject) == ("forget", plan.pseudonym) and entry.at >= plan.begun:
            return
    told = f"{len(plan.cases)} cases; {len(plan.models)} models saw them"
    home.audit("forget", plan.pseudonym, told)
