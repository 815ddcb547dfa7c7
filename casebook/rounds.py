"""A round's folder: which files exist is the state of the round.

manifest.json → proposals.coco.json → pushed.json → pull/ → annotations.coco.json +
corrections.json + effort.json → candidate.json → evaluation.json → decision.json → report.json +
report.html. Round 1 goes from the manifest straight to annotations. Each step needs the one
before, writes its own once and is replaced only when forced.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.cases import FrameRef, Split
from casebook.documents import Document, append_line, read_document, read_lines, sha256_of_file
from casebook.errors import DataError, StateError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.tombstones import original_sha256

STEPS = (
    "manifest.json",
    "proposals.coco.json",
    "pushed.json",
    "annotations.coco.json",
    "candidate.json",
    "evaluation.json",
    "decision.json",
    "report.json",
)
"""The files of a round in order; the last one there is its state."""


class ManifestCase(Document):
    """One frame of a round."""

    at: FrameRef
    patient: str
    split: Split
    image_sha256: str
    arm: Literal["strategy", "control"] = "strategy"
    """`control`: chosen at random, to show whether the strategy helps."""
    score: float | None = None
    """What the strategy ranked it by."""


class Manifest(Document):
    """What a round works on, fixed once."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int = Field(ge=1)
    labels: LabelSet
    strategy: str
    seed: int
    cases: tuple[ManifestCase, ...]
    """New training cases of this round."""
    val: tuple[ManifestCase, ...]
    """Frozen validation cases: the promotion gate decides on them."""
    test: tuple[ManifestCase, ...]
    """Frozen test cases: reported, never deciding."""
    created: datetime

    def check_leaks(self) -> None:
        """Refuse a patient in two splits.

        Raises:
            DataError: names the pseudonyms.
        """
        train = {case.patient for case in self.cases}
        val = {case.patient for case in self.val}
        test = {case.patient for case in self.test}
        shared = sorted((train & val) | (train & test) | (val & test))
        if shared:
            raise DataError(
                f"round {self.round:02d}: patients in two splits: {', '.join(shared[:5])}; "
                "correct the splits and import again"
            )


class Event(Document):
    """One line of progress."""

    at: datetime
    step: str
    message: str
    fraction: float | None = Field(default=None, ge=0, le=1)
    values: dict[str, float] = Field(default_factory=dict)


@dataclass(frozen=True)
class RoundFolder:
    """The files of one round."""

    home: Home
    number: int

    @property
    def path(self) -> Path:
        """The folder."""
        return self.home.round_folder(self.number)

    def file(self, name: str) -> Path:
        """A file of the round."""
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether a file of the round is there."""
        return self.file(name).exists()

    def state(self) -> str:
        """The name of the last step whose file is there, or `empty`."""
        present = [name for name in STEPS if self.has(name)]
        return present[-1] if present else "empty"

    def need(self, name: str, how: str) -> Path:
        """A file that must be there.

        Raises:
            StateError: it is not; `how` says what to do.
        """
        path = self.file(name)
        if not path.exists():
            raise StateError(
                f"round {self.number:02d}: {name} is not there (state: {self.state()}). {how}"
            )
        return path

    def manifest(self) -> Manifest:
        """The manifest.

        Raises:
            StateError: the round has none yet.
        """
        how = (
            "Run `make train ROUND=1`."
            if self.number == 1
            else f"Run `cvatsync push --round {self.number}`."
        )
        return read_document(self.need("manifest.json", how), Manifest)

    def manifest_sha256(self) -> str:
        """Identity of the round's work: the key of its tasks, which a withdrawal leaves."""
        path = self.need("manifest.json", "Run the selection first.")
        return original_sha256(self.path, path.name, sha256_of_file(path))

    def event(
        self,
        step: str,
        message: str,
        fraction: float | None = None,
        values: dict[str, float] | None = None,
    ) -> None:
        """Add a line of progress, for whoever follows."""
        entry = Event(
            at=datetime.now(UTC),
            step=step,
            message=message,
            fraction=fraction,
            values=values or {},
        )
        append_line(self.file("events.jsonl"), entry)

    def events(self) -> list[Event]:
        """All lines of progress so far."""
        return read_lines(self.file("events.jsonl"), Event)
