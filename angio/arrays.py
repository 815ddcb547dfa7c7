"""NPY files, opened without reading them and without trusting them.

The header is read as a literal and nothing is unpickled; what it declares is compared with the file
before a byte of the array is touched.
Source: NumPy, numpy/lib/format.py (NPY format 1.0 and 2.0).
"""

import ast
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from angio.source_files import size_of
from casebook.errors import DataError, TooLargeError

MAX_BYTES = 2 * 1024**3
"""Largest array a file may declare."""
MAX_HEADER = 4096
"""Longest header, in characters; a plain array needs about 100."""
_MAGIC = b"\x93NUMPY"
_KINDS = "buif"


def open_array(path: Path, name: str) -> "np.memmap[Any, np.dtype[Any]]":
    """A plain numeric array, mapped read-only.

    Args:
        path: The NPY file.
        name: What messages call it; file names often carry the patient's number.

    Raises:
        DataError: missing, not NPY, damaged, of objects or records, or longer or shorter than its
            header says.
        TooLargeError: it declares more than any cine has.
    """
    size = size_of(path, name)
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise DataError(f"{name} is not NPY; save it with numpy.save")
            shape, fortran, dtype = _header(stream)
            offset = stream.tell()
    except (OSError, ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise DataError(f"{name} has a damaged NPY header; save it again") from None
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise DataError(f"{name} holds {dtype}; expected plain numbers; save it as uint8 or float")
    declared = dtype.itemsize
    for length in shape:
        declared *= length
    if declared > MAX_BYTES:
        raise TooLargeError(f"{name} declares {declared} bytes; expected at most {MAX_BYTES}")
    if not declared or size - offset != declared:
        raise DataError(
            f"{name} holds {size - offset} bytes; its header {shape} {dtype} needs {declared}; "
            "copy or save it again"
        )
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(path, dtype, "r", offset=offset, shape=shape, order=order)


def _header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type. Raises ValueError and the like."""
    version = stream.read(2)
    length_bytes = {b"\x01\x00": 2, b"\x02\x00": 4}.get(version)
    if length_bytes is None:
        raise ValueError("version")
    length = int.from_bytes(stream.read(length_bytes), "little")
    if length > MAX_HEADER:
        raise ValueError("length")
    found = ast.literal_eval(stream.read(length).decode("latin-1").strip())
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("keys")
    descr, fortran, shape = found["descr"], found["fortran_order"], found["shape"]
    if not isinstance(descr, str) or not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise TypeError("types")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError("shape")
    return shape, fortran, np.dtype(descr)
