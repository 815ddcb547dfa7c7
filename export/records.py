"""What a run keeps of each file, so that a killed run goes on and no file is done twice.

`OUT/records/` holds one small document a file, written after the file's pictures. The tables are
made from these one by one, so that the length of a folder does not matter. Knows no model.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook.annotations import AnnotationSet
from casebook.documents import Document, read_document, sha256_of, write_document
from casebook.errors import DataError
from export.findings import FrameResult

FOLDER = "records"
_NOT_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_LENGTH = 48


class FileProblem(Document):
    """A file that was left out, and why."""

    file: str
    message: str


class FileRecord(Document):
    """What became of one file: a result with its masks, or a problem."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    key: str
    """Hash of the file's place, size and time, of the bundle and of what was asked."""
    name: str
    """What its results are called."""
    result: FrameResult | None = None
    masks: AnnotationSet | None = None
    pictures: tuple[str, ...] = ()
    """Files written for it, beside the tables."""
    problem: FileProblem | None = None


def stamp_of(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns.

    Raises:
        OSError: it is not there, or not to be read.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@dataclass
class RecordBook:
    """The records of one folder of results."""

    out: Path
    asked: str
    """Bundle and options; a file is done again when they change."""
    _names: dict[str, str] = field(default_factory=dict)
    _keys: dict[str, tuple[str, bool]] = field(default_factory=dict)
    """By a record's file name: its key, and whether the file could be used."""

    def __post_init__(self) -> None:
        """Learn which names are taken; a torn or foreign record counts as none."""
        for path in sorted((self.out / FOLDER).glob("*.json")):
            try:
                record = read_document(path, FileRecord)
            except DataError:
                continue
            self._keys[path.name] = (record.key, record.problem is None)
            self._names[record.name] = path.name

    def _place(self, path: Path) -> Path:
        return self.out / FOLDER / f"{sha256_of(str(path.resolve()).encode())[:24]}.json"

    def key_of(self, path: Path) -> str:
        """The key a file has now.

        Raises:
            OSError: as `stamp_of`.
        """
        size, time_ns = stamp_of(path)
        return sha256_of(f"{path.resolve()}\n{size}\n{time_ns}\n{self.asked}".encode())

    def name_of(self, path: Path) -> str:
        """A flat name for the results of a file: always the same one, and no other file's."""
        place = self._place(path).name
        name = (_NOT_NAMES.sub("-", path.stem).strip("-_") or "file")[:_NAME_LENGTH]
        if self._names.setdefault(name, place) != place:
            name = f"{name}-{place[:8]}"
            self._names[name] = place
        return name

    def is_done(self, path: Path, *, failed_too: bool = False) -> bool:
        """Whether a file as it is now was done already.

        Args:
            path: the file.
            failed_too: a file that could not be used counts as done.

        Raises:
            OSError: as `stamp_of`.
        """
        key, is_well = self._keys.get(self._place(path).name, ("", False))
        return key == self.key_of(path) and (is_well or failed_too)

    def keep(self, path: Path, record: FileRecord) -> None:
        """Write a record; pictures an earlier one named and this one does not are removed."""
        place = self._place(path)
        if place.name in self._keys:
            for name in set(read_document(place, FileRecord).pictures) - set(record.pictures):
                if Path(name).name == name:
                    (self.out / name).unlink(missing_ok=True)
        write_document(place, record)
        self._keys[place.name] = (record.key, record.problem is None)

    def of(self, path: Path) -> FileRecord:
        """The record of a file.

        Raises:
            StateError: there is none.
            DataError: it is damaged.
        """
        return read_document(self._place(path), FileRecord)

    def all(self) -> Iterator[FileRecord]:
        """Every record, in the order of the results' names."""
        for _, place in sorted(self._names.items()):
            if place in self._keys:
                yield read_document(self.out / FOLDER / place, FileRecord)
