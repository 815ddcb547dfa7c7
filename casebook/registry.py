"""The model registry: `models/<id>/` folders with a card, and the pointers to those in use.

A pointer is a plain file with an id, replaced atomically. Knows no model.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from casebook.documents import Document, read_document, sha256_of_file, write_bytes, write_document
from casebook.errors import ModelError, StateError
from casebook.home import Home, locked

_ID = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
RESERVED = frozenset({"promoted", "released", "calibration", "specialists.json"})
"""Names in models/ that are not models."""
PRUNED = "pruned.json"
"""Beside the card of a model whose weights were taken away (`trainer prune`)."""
_LOCK_WAIT_S = 10.0


class ModelCard(Document):
    """Where a model comes from and what it may be used for."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    model_id: str
    kind: Literal["base", "teacher", "student"]
    architecture: str
    """For instance `SAM 3 (tiny) + LoRA r 16`."""
    base: str | None = None
    """Id of the base the adapter belongs to."""
    base_sha256: str | None = None
    parents: tuple[str, ...] = ()
    round: int | None = None
    created: datetime
    n_params: int = Field(ge=0)
    n_trainable: int = Field(default=0, ge=0)
    data: dict[str, JsonValue] = Field(default_factory=dict)
    """Manifest hash, numbers of cases by origin."""
    config: dict[str, JsonValue] = Field(default_factory=dict)
    seed: int | None = None
    commit: str | None = None
    constraints_sha256: str | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of every file beside the card."""
    licence: str
    intended_use: str = "Research use; not a medical device."


@dataclass(frozen=True)
class Registry:
    """The models of a workspace."""

    home: Home

    def folder(self, model_id: str) -> Path:
        """Folder of a model.

        Raises:
            ModelError: the id is not one a registry can hold.
        """
        if not _ID.match(model_id) or model_id in RESERVED:
            raise ModelError(f"model id {model_id!r} is not valid; expected a-z 0-9 . _ -")
        return self.home.models / model_id

    def add(self, card: ModelCard, payloads: dict[str, bytes]) -> ModelCard:
        """Add a model: its files, then the card with their hashes that makes it visible."""
        folder = self.folder(card.model_id)
        for name, payload in payloads.items():
            write_bytes(folder / name, payload)
        return self.seal(card)

    def seal(self, card: ModelCard) -> ModelCard:
        """Write the card of a folder whose files are complete, with their hashes."""
        folder = self.folder(card.model_id)
        files = {
            path.relative_to(folder).as_posix(): sha256_of_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.name not in {"card.json", PRUNED}
            and not path.name.startswith(".")
        }
        sealed = card.with_(files=files)
        write_document(folder / "card.json", sealed)
        (folder / PRUNED).unlink(missing_ok=True)  # made again
        return sealed

    def card(self, model_id: str) -> ModelCard:
        """The card of a model.

        Raises:
            ModelError: there is no such model.
        """
        try:
            return read_document(self.folder(model_id) / "card.json", ModelCard)
        except StateError:
            raise ModelError(
                f"model {model_id} is not in {self.home.models}; `trainer models` lists them"
            ) from None

    def verify(self, model_id: str) -> ModelCard:
        """The card, after every file was found whole.

        Raises:
            ModelError: a file is missing or damaged.
        """
        card = self.card(model_id)
        if (self.folder(model_id) / PRUNED).exists():
            raise ModelError(
                f"model {model_id}: its weights were pruned, only its card is kept; restore them "
                f"from a backup (and remove its {PRUNED}), or take one of `trainer models`"
            )
        for name, digest in card.files.items():
            path = self.folder(model_id) / name
            if not path.is_file() or sha256_of_file(path) != digest:
                raise ModelError(f"model {model_id}: {name} is missing or damaged; restore it")
        return card

    def cards(self) -> list[ModelCard]:
        """All models, oldest first."""
        found = [
            read_document(path, ModelCard) for path in sorted(self.home.models.glob("*/card.json"))
        ]
        return sorted(found, key=lambda card: card.created)

    def promoted(self) -> str | None:
        """Id of the teacher in use, when there is one."""
        return _read_pointer(self.home.models / "promoted")

    def promote(self, model_id: str, reason: str) -> None:
        """Point to another teacher, after its files were found whole.

        Raises:
            BusyError: another promotion, or a pruning, is under way.
        """
        with self.changing():
            self.verify(model_id)
            # First the line: a kill in between leaves a promotion told twice, never one untold.
            self.home.audit("promote", model_id, reason)
            write_bytes(self.home.models / "promoted", f"{model_id}\n".encode())

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the models in use and their files as they are: one change at a time.

        Raises:
            BusyError: somebody else changes them.
        """
        lock = self.home.models / ".lock"
        with locked(lock, "a change of the models in use", timeout_s=_LOCK_WAIT_S):
            yield

    def released(self) -> str | None:
        """Version of the student in use, when there is one."""
        return _read_pointer(self.home.models / "released" / "current")

    def release(self, version: str, reason: str) -> None:
        """Point to another released bundle.

        Raises:
            BusyError: a promotion or a pruning is under way.
        """
        with self.changing():
            if not (self.home.models / "released" / version / "manifest.json").is_file():
                raise ModelError(f"bundle {version} is not in models/released; export it first")
            self.home.audit("release", version, reason)
            write_bytes(self.home.models / "released" / "current", f"{version}\n".encode())


def _read_pointer(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if not _ID.match(text):
        raise ModelError(f"{path} holds {text[:80]!r}; expected a model id")
    return text
