"""Which models' weights may go: never those in use, what these come from, or the newest.

A model that goes leaves its card, so that every lineage stays readable. Knows no weights.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.documents import Document, read_document, write_document
from casebook.errors import BusyError, StateError
from casebook.home import Home
from casebook.registry import PRUNED, ModelCard, Registry
from casebook.specialists import read_specialists
from trainer.lineage import previous_teacher
from trainer.requests import pending, round_folders
from trainer.results import Candidate

KEEP = 5
"""The newest of each kind are kept whatever they are."""


class Kept(Document):
    """A model that stays, and the first reason for it."""

    model_id: str
    reason: str


class Leaving(Document):
    """A model whose weights go."""

    model_id: str
    kind: Literal["base", "teacher", "student"]
    size_bytes: int = Field(ge=0)


class RetentionPlan(Document):
    """What a pruning would do, or did."""

    kept: tuple[Kept, ...]
    leaving: tuple[Leaving, ...]

    @property
    def size_bytes(self) -> int:
        """What it frees."""
        return sum(entry.size_bytes for entry in self.leaving)


class Pruned(Document):
    """That a model's weights were taken away: beside its card."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    at: datetime
    reason: str = ""


def plan(
    cards: Sequence[ModelCard],
    used: Mapping[str, str],
    sizes: Mapping[str, int],
    keep: int,
) -> RetentionPlan:
    """What stays and what goes.

    Args:
        cards: All models.
        used: Models in use by id, each with the reason; what they come from stays as well.
        sizes: Bytes of each model's files; one without any is gone already.
        keep: The newest of each kind to keep.
    """
    known = {card.model_id: card for card in cards}
    reasons: dict[str, str] = {}
    for model_id, reason in used.items():
        _protect(model_id, reason, known, reasons)
    for kind in ("teacher", "student"):
        of_kind = [card for card in cards if card.kind == kind and sizes.get(card.model_id)]
        newest = sorted(of_kind, key=lambda card: (card.created, card.model_id))
        for card in newest[len(newest) - min(keep, len(newest)) :]:
            reasons.setdefault(card.model_id, f"one of the newest {keep} {kind}s")
            if kind == "student":
                for parent in card.parents:
                    reasons.setdefault(parent, f"teacher of {card.model_id}")
    for card in cards:
        if card.kind == "base":
            reasons.setdefault(card.model_id, "a base")
    present = [card for card in cards if sizes.get(card.model_id)]
    return RetentionPlan(
        kept=tuple(
            Kept(model_id=card.model_id, reason=reasons[card.model_id])
            for card in present
            if card.model_id in reasons
        ),
        leaving=tuple(
            Leaving(model_id=card.model_id, kind=card.kind, size_bytes=sizes[card.model_id])
            for card in present
            if card.model_id not in reasons
        ),
    )


def _protect(
    model_id: str, reason: str, known: Mapping[str, ModelCard], reasons: dict[str, str]
) -> None:
    """Keep a model and everything it comes from."""
    if model_id in reasons:
        return
    reasons[model_id] = reason
    for parent in known[model_id].parents if model_id in known else ():
        _protect(parent, f"{model_id} comes from it", known, reasons)


def plan_for(home: Home, keep: int = KEEP) -> RetentionPlan:
    """What a pruning of a workspace would do."""
    cards = Registry(home).cards()
    sizes = {card.model_id: sum(map(_size, _files(home, card.model_id))) for card in cards}
    return plan(cards, _used(home), sizes, keep)


def prune(home: Home, keep: int = KEEP, reason: str = "") -> RetentionPlan:
    """Take away the weights of models that are not needed; killed, it goes on when run again.

    Raises:
        BusyError: a round is being worked on, or a promotion is under way.
    """
    busy = [folder for folder in round_folders(home) if pending(folder) is not None]
    if busy:
        raise BusyError(
            f"round {busy[0].number:02d} is being worked on and may need any model; wait for it, "
            f"or run `trainer cancel --round {busy[0].number}`"
        )
    registry = Registry(home)
    with registry.changing():
        found = plan_for(home, keep)
        for entry in found.leaving:
            record = Pruned(at=datetime.now(UTC), reason=reason)
            write_document(registry.folder(entry.model_id) / PRUNED, record)
            home.audit("prune", entry.model_id, reason)
            for path in _files(home, entry.model_id):
                path.unlink()
            shutil.rmtree(home.descriptors / entry.model_id, ignore_errors=True)
    return found


def _used(home: Home) -> dict[str, str]:
    """Models in use and why, the strongest reason first."""
    registry = Registry(home)
    used: dict[str, str] = {}
    promoted, released = registry.promoted(), registry.released()
    if promoted is not None:
        used[promoted] = "the teacher in use"
    if released is not None:
        used.setdefault(released, "the student in use")
    for entry in read_specialists(home).specialists:
        used.setdefault(entry.model_id, f"answers for {entry.vessel}")
    with suppress(StateError):  # nothing to go back to
        used.setdefault(previous_teacher(home), "what a rollback goes to")
    for folder in round_folders(home):
        if folder.has("candidate.json") and not folder.has("report.json"):
            candidate = read_document(folder.file("candidate.json"), Candidate)
            for model_id in (candidate.model_id, candidate.incumbent):
                used.setdefault(model_id, f"round {folder.number:02d} is not reported yet")
    return used


def _files(home: Home, model_id: str) -> list[Path]:
    """A model's files but for what tells of it; a bundle's manifest, which makes it one, first."""
    folder = Registry(home).folder(model_id)
    own: Iterable[Path] = (path for path in sorted(folder.rglob("*")) if path.is_file())
    kept = {folder / "card.json", folder / PRUNED}
    bundle = home.models / "released" / model_id
    released = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
    released.sort(key=lambda path: path.name != "manifest.json")
    return [*released, *(path for path in own if path not in kept)]


def _size(path: Path) -> int:
    return path.stat().st_size
