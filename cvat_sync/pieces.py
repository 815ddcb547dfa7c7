"""A JSON document read value by value, whatever its length: what is read is not kept.

Knows JSON and nothing of what the documents say.
"""

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)
_PIECE_BYTES = 1 << 18
_BLANK = re.compile(r"[ \t\r\n,:]*")


@dataclass(frozen=True)
class Piece:
    """A field of a document, or an entry of one of its long lists."""

    field: str
    value: object
    begin: int
    """Where it lies in the file, in bytes."""
    n_bytes: int
    is_entry: bool


class _Text:
    """A file's characters, a window at a time; a byte is a character, so positions are bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._start, self._at, self._window = stream, 0, 0, ""
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        piece = self._stream.read(_PIECE_BYTES)
        self._start += self._at
        self._window, self._at = self._window[self._at :] + piece.decode("latin-1"), 0
        return bool(piece)

    def peek(self) -> str:
        """The next character that says something; empty at the end."""
        while True:
            found = _BLANK.match(self._window, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._window) or not self._more():
                return self._window[self._at : self._at + 1]

    def skip(self, expected: str) -> None:
        if self.peek() != expected:
            raise ValueError(f"expected {expected!r} at byte {self._start + self._at}")
        self._at += 1

    def value(self) -> tuple[object, int, int]:
        """The next value, and where it begins and how long it is, in bytes."""
        self.peek()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._window, self._at)
            except json.JSONDecodeError:
                end = len(self._window)
            if end < len(self._window):  # a number could go on behind the window
                begin, length = self._start + self._at, end - self._at
                self._at = end
                return found, begin, length
            if not self._more():
                raise ValueError(f"damaged at byte {self._start + self._at}")


def pieces(path: Path, lists: Collection[str]) -> Iterator[Piece]:
    """The fields of a document in their order; of the named lists, each entry by itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON document.
    """
    with path.open("rb") as stream:
        text = _Text(stream)
        text.skip("{")
        while text.peek() != "}":
            name, begin, length = text.value()
            field = str(name)
            if field not in lists:
                value, begin, length = text.value()
                yield Piece(field, value, begin, length, is_entry=False)
                continue
            text.skip("[")
            while text.peek() != "]":
                value, begin, length = text.value()
                yield Piece(field, value, begin, length, is_entry=True)
            text.skip("]")


def parsed(stream: BinaryIO, begin: int, n_bytes: int, kind: type[M]) -> M:
    """The value that lies at a place of a file.

    Raises:
        ValidationError: it is not of this kind.
    """
    stream.seek(begin)
    return kind.model_validate_json(stream.read(n_bytes))
