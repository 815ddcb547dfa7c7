"""What a round works on, case by case: ten thousand take no more memory than ten.

Says what the manifest says; knows no server.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from pydantic import ValidationError

from casebook.errors import DataError
from casebook.labels import LabelSet
from casebook.rounds import Manifest, ManifestCase, RoundFolder
from cvat_sync.pieces import parsed, pieces

_LISTS = ("cases", "val", "test")


@runtime_checkable
class Work(Protocol):
    """What an exchange needs to know of a manifest; a `Manifest` in memory will do."""

    @property
    def round(self) -> int:
        """Number of the round."""

    @property
    def labels(self) -> LabelSet:
        """What is annotated."""

    @property
    def cases(self) -> Iterable[ManifestCase]:
        """The round's training cases; one may go through them any number of times."""


class ManifestFile:
    """A manifest on disk, whose cases are read anew each time one goes through them.

    Raises:
        DataError: the file is not a manifest.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            found = Manifest.model_validate_json(self._without_cases())
        except ValueError as problem:
            raise self._damaged(problem) from None
        self.round, self.labels = found.round, found.labels

    def _without_cases(self) -> bytes:
        fields = [f'"{name}":[]'.encode() for name in _LISTS]
        with self._path.open("rb") as stream:
            for piece in pieces(self._path, _LISTS):
                if not piece.is_entry:
                    stream.seek(piece.begin)
                    name = json.dumps(piece.field).encode()
                    fields.append(name + b":" + stream.read(piece.n_bytes))
        return b"{" + b",".join(fields) + b"}"

    @property
    def cases(self) -> Iterator[ManifestCase]:
        """The round's training cases.

        Raises:
            DataError: one of them is damaged.
        """
        with self._path.open("rb") as stream:
            for piece in pieces(self._path, _LISTS):
                if piece.is_entry and piece.field == "cases":
                    try:
                        yield parsed(stream, piece.begin, piece.n_bytes, ManifestCase)
                    except ValueError as problem:
                        raise self._damaged(problem) from None

    def _damaged(self, problem: ValueError) -> DataError:
        said: object = problem
        if isinstance(problem, ValidationError):
            error = problem.errors()[0]
            said = f"{'.'.join(map(str, error['loc']))}: {error['msg']}"
        return DataError(
            f"{self._path} is not a valid Manifest: {said}; restore it, or delete it and push again"
        )


def read_work(folder: RoundFolder) -> ManifestFile:
    """A round's manifest, as a file.

    Raises:
        StateError: the round has none yet.
        DataError: it is damaged.
    """
    how = f"Run `cvatsync push --round {folder.number}`."
    return ManifestFile(folder.need("manifest.json", how))
