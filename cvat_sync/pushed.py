"""What was pushed: pushed.json, and the journal a killed push resumes from."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from casebook.documents import Document, read_document
from casebook.rounds import RoundFolder

JOURNAL = "push.journal.jsonl"


class PushedTask(Document):
    """One task in CVAT."""

    key: str
    """Written into the task's bug tracker field: its identity, for names may repeat."""
    task_id: int
    name: str
    frames: tuple[str, ...]
    """File names in frame order."""
    masks: int = Field(ge=0)
    validation: Literal["ground_truth", "honeypots"] | None = None
    """How CVAT checks the task; with honeypots, names of frames repeat."""


class Pushed(Document):
    """A round as it lies in CVAT."""

    schema_: Literal[1, 2] = Field(default=2, alias="schema", serialization_alias="schema")
    """1 had neither `labels` nor a task's `validation`."""
    round: int = Field(ge=1)
    url: str
    project_id: int
    project: str
    manifest_sha256: str
    tasks: tuple[PushedTask, ...]
    at: datetime
    labels: dict[str, int] = Field(default_factory=dict)
    """Ids of the labels by name, for people may rename them; empty in schema 1."""


def need_pushed(folder: RoundFolder) -> Pushed:
    """The round's push.

    Raises:
        StateError: the round has not been pushed.
    """
    how = f"Run `cvatsync push --round {folder.number}` first."
    return read_document(folder.need("pushed.json", how), Pushed)
