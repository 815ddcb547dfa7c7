"""Files as an HTML form, sent piece by piece: of a task's frames only one is held at a time.

Knows how HTTP writes a form and what CVAT calls a file in it; knows neither tasks nor frames.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from urllib3.fields import RequestField
from urllib3.filepost import choose_boundary

from casebook.errors import DataError

_END = b"\r\n"


@dataclass(frozen=True)
class _File:
    """A file of the form, after the lines that introduce it."""

    head: bytes
    path: Path
    n_bytes: int


@dataclass(frozen=True)
class Form:
    """A form whose length is known before a file of it is read."""

    content_type: str
    head: bytes
    files: tuple[_File, ...]
    tail: bytes

    @property
    def n_bytes(self) -> int:
        """Length of all pieces together."""
        files = sum(len(one.head) + one.n_bytes + len(_END) for one in self.files)
        return len(self.head) + files + len(self.tail)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The form; each file is read when its turn comes, over the one before it.

        Raises:
            DataError: a file has another length than was announced.
        """
        buffer = memoryview(bytearray(max((one.n_bytes for one in self.files), default=0) + 1))
        before = self.head
        for one in self.files:
            with one.path.open("rb", buffering=0) as stream:
                found = stream.readinto(buffer[: one.n_bytes + 1])
            if found != one.n_bytes:
                raise DataError(
                    f"{one.path.name} no longer has the {one.n_bytes} bytes it had when its "
                    "sending began; let nothing write there, then run again"
                )
            yield before + one.head
            yield buffer[:found]
            before = _END
        yield before + self.tail


def form(values: Mapping[str, object], files: Mapping[str, Path], media_type: str) -> Form:
    """A form of values, written as words, and of files under their names on the other side.

    The type of the files is given: guessed from a name, it is looked up in the system's tables.

    Source: RFC 7578, 4; cvat-ai/cvat, cvat/apps/engine/mixins.py (UploadMixin).
    """
    boundary = choose_boundary()
    lead = f"--{boundary}\r\n"
    words = {name: str(value) for name, value in values.items()}
    fields = [
        f"{lead}{RequestField.from_tuples(name, word).render_headers()}{word}\r\n"
        for name, word in words.items()
    ]
    parts = []
    for number, (name, path) in enumerate(files.items()):
        field = RequestField.from_tuples(f"client_files[{number}]", (name, b"", media_type))
        head = f"{lead}{field.render_headers()}".encode()
        parts.append(_File(head, path, path.stat().st_size))
    return Form(
        content_type=f"multipart/form-data; boundary={boundary}",
        head="".join(fields).encode(),
        files=tuple(parts),
        tail=f"--{boundary}--\r\n".encode(),
    )


def groups(files: Mapping[str, Path], n_bytes: int) -> list[dict[str, Path]]:
    """Files in their order, so many to a form that each holds at most so many bytes of them."""
    found: list[dict[str, Path]] = [{}]
    filled = 0
    for name, path in files.items():
        size = path.stat().st_size
        if found[-1] and filled + size > n_bytes:
            found.append({})
            filled = 0
        found[-1][name] = path
        filled += size
    return found
