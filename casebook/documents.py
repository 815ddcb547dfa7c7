"""Documents on disk: frozen pydantic models in JSON, written whole or not at all.

Knows nothing of what a document says.
"""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from casebook.errors import DataError, StateError

D = TypeVar("D", bound=BaseModel)


class Document(BaseModel):
    """A value that crosses disk or process: frozen, unknown fields forbidden."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True
    )

    def with_(self: D, **changes: object) -> D:
        """The same document with some fields changed, validated again."""
        return type(self).model_validate({**self.model_dump(), **changes})


def write_bytes(path: Path, payload: bytes, *, mode: int = 0o644) -> None:
    """Write a file atomically: a temporary name in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":  # pragma: no cover - Windows cannot open a folder; its rename is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_document(path: Path, document: BaseModel) -> None:
    """Write a document as indented JSON, atomically."""
    write_bytes(path, (document.model_dump_json(indent=1) + "\n").encode())


def read_document(path: Path, kind: type[D]) -> D:
    """Read one document.

    Raises:
        StateError: the file is not there.
        DataError: it is not JSON or not of this kind; every problem is listed.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise StateError(f"{path} is not there; the step that writes it has not run") from None
    try:
        return kind.model_validate_json(text)
    except ValidationError as problem:
        lines = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'document'}: {error['msg']}"
            for error in problem.errors()
        )
        raise DataError(f"{path} is not a valid {kind.__name__}: {lines}") from None


def append_line(path: Path, document: BaseModel) -> None:
    """Append one document as a JSON line; a torn last line of an earlier crash is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                stream.write(b"\n")
        stream.write(document.model_dump_json().encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_lines(path: Path, kind: type[D]) -> list[D]:
    """All whole lines of a journal; a torn line (a crash in the middle of a write) is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        try:
            entries.append(kind.model_validate_json(line))
        except ValidationError as problem:
            if _is_torn(line):
                continue
            raise DataError(f"{path}: a line is not a valid {kind.__name__}: {problem}") from None
    return entries


def _is_torn(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return True
    return False


def sha256_of(payload: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(payload).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
