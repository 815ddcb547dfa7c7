"""JSON from outside, read strictly: bounded, without repeated keys, NaN or bottomless nesting."""

import json
from pathlib import Path
from typing import Any

from angio.source_files import size_of
from casebook.errors import DataError, TooLargeError

MAX_BYTES = 192 * 1024**2
"""Largest file read; Python needs about five times as much memory for it."""


def read_json(path: Path, name: str, *, most: int = MAX_BYTES) -> Any:
    """What a JSON file holds.

    Args:
        path: The file.
        name: What messages call it; file names often carry the patient's number.
        most: Largest size in bytes.

    Raises:
        DataError: missing, not JSON, a key given twice in one object, NaN or infinity.
        TooLargeError: larger than `most`.
    """
    size = size_of(path, name)
    if size > most:
        raise TooLargeError(f"{name} has {size} bytes; expected at most {most}; split it")
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (OSError, ValueError) as problem:
        raise DataError(f"{name} is not JSON ({problem}); export it again") from None
    except RecursionError:
        raise DataError(f"{name} is nested too deeply to be what it should; export again") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice in one object")
    return found


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")
