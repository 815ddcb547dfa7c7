"""What stays of a patient's frames in a round after a withdrawal: the hash of what was there.

A sealed file that lost some of its entries has another hash; the tombstone says which hash it had,
so that a model's lineage stays checkable. Knows no patient.
"""

from datetime import datetime
from pathlib import Path

from pydantic import Field

from casebook.documents import Document, append_line, read_lines

JOURNAL = "withdrawals.jsonl"


class Tombstone(Document):
    """One file of a round that lost entries, or was taken away."""

    file: str
    """Relative to the round's folder."""
    sha256_before: str
    sha256_after: str | None
    """Nothing when the file was taken away: it can be made again."""
    entries: int = Field(ge=0)
    """How many entries it lost."""
    at: datetime


def read_tombstones(round_path: Path) -> list[Tombstone]:
    """The tombstones of a round, oldest first."""
    return read_lines(round_path / JOURNAL, Tombstone)


def add_tombstone(round_path: Path, tombstone: Tombstone) -> None:
    """Add one, unless the same change is recorded already (a run that was killed)."""
    for known in read_tombstones(round_path):
        if known.with_(at=tombstone.at) == tombstone:
            return
    append_line(round_path / JOURNAL, tombstone)


def original_sha256(round_path: Path, file: str, sha256: str) -> str:
    """The hash a file had when it was sealed, given the one it has now."""
    for tombstone in reversed(read_tombstones(round_path)):
        if tombstone.file == file and tombstone.sha256_after == sha256:
            sha256 = tombstone.sha256_before
    return sha256
