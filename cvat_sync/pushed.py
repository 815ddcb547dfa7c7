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


class Pushed(Document):
    """A round as it lies in CVAT."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int = Field(ge=1)
    url: str
    project_id: int
    project: str
    manifest_sha256: str
    tasks: tuple[PushedTask, ...]
    at: datetime


def need_pushed(folder: RoundFolder) -> Pushed:
    """The round's push.

    Raises:
        StateError: the round has not been pushed.
    """
    how = f"Run `cvatsync push --round {folder.number}` first."
    return read_document(folder.need("pushed.json", how), Pushed)
