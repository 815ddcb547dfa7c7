"""A round's proposals read piece by piece: ten thousand frames take no more memory than ten.

Knows the order of COCO's fields, and nothing of CVAT.
"""

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from casebook.annotations import CocoAnnotation, CocoCategory, CocoImage
from casebook.documents import Document
from casebook.errors import DataError, StateError

M = TypeVar("M", bound=BaseModel)
_PIECE_BYTES = 1 << 18
_BLANK = re.compile(r"[ \t\r\n,:]*")
_KINDS = {"images": CocoImage, "annotations": CocoAnnotation, "categories": CocoCategory}


class ProposedMask(Document):
    """A proposal with the frame and the label it is for."""

    file_name: str
    label: str
    annotation: CocoAnnotation


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


def _entries(path: Path) -> Iterator[tuple[str, int, int]]:
    """Place and length of each image, annotation and category, with the name of its list."""
    with path.open("rb") as stream:
        text = _Text(stream)
        text.skip("{")
        while text.peek() != "}":
            name, _, _ = text.value()
            if name not in _KINDS:
                text.value()
                continue
            text.skip("[")
            while text.peek() != "]":
                _, begin, length = text.value()
                yield str(name), begin, length
            text.skip("]")


class Proposals:
    """The proposals of a round, by the name of their frame.

    Raises:
        StateError: the file is not there.
        DataError: it is not a valid annotation set.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, array[int]] = {}
        """For each mask of a frame: where it begins, how long it is, its label's number."""
        self._labels: dict[int, str] = {}
        try:
            self._read()
        except FileNotFoundError:
            raise StateError(f"{path} is not there; the step that writes it has not run") from None
        except (ValueError, ValidationError) as problem:
            said = problem.errors()[0]["msg"] if isinstance(problem, ValidationError) else problem
            raise DataError(
                f"{path} is not a valid annotation set: {said}; delete it and push again"
            ) from None

    def _read(self) -> None:
        names: dict[int, str] = {}
        used: set[int] = set()
        with self._path.open("rb") as stream:
            for kind, begin, length in _entries(self._path):
                if kind == "images":
                    image = _parsed(stream, begin, length, CocoImage)
                    names[image.id] = image.file_name
                    self._places[image.file_name] = array("q")
                elif kind == "categories":
                    category = _parsed(stream, begin, length, CocoCategory)
                    self._labels[category.id] = category.name
                else:
                    annotation = _parsed(stream, begin, length, CocoAnnotation)
                    name = names.get(annotation.image_id)
                    if name is None:
                        raise ValueError(f"annotation {annotation.id} is of an unknown image")
                    self._places[name].extend((begin, length, annotation.category_id))
                    used.add(annotation.category_id)
        if used - set(self._labels):
            raise ValueError(f"category {min(used - set(self._labels))} is unknown")
        self._used = frozenset(self._labels[number] for number in used)

    @property
    def file_names(self) -> frozenset[str]:
        """Names of the frames it speaks of."""
        return frozenset(self._places)

    @property
    def labels(self) -> frozenset[str]:
        """Names of the labels that occur."""
        return self._used

    def count(self, file_name: str) -> dict[str, int]:
        """Number of masks on a frame, by label."""
        numbers = self._places.get(file_name, array("q"))[2::3]
        return dict(Counter(self._labels[number] for number in numbers))

    def of(self, file_names: Sequence[str]) -> tuple[ProposedMask, ...]:
        """The masks on some frames, read from the file now."""
        found = []
        with self._path.open("rb") as stream:
            for name in file_names:
                places = self._places.get(name, array("q"))
                for begin, length in zip(places[0::3], places[1::3], strict=True):
                    annotation = _parsed(stream, begin, length, CocoAnnotation)
                    label = self._labels[annotation.category_id]
                    found.append(ProposedMask(file_name=name, label=label, annotation=annotation))
        return tuple(found)


def _parsed(stream: BinaryIO, begin: int, length: int, kind: type[M]) -> M:
    stream.seek(begin)
    return kind.model_validate_json(stream.read(length))
