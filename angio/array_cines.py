"""Cines kept as NPY files: frames × height × width, 0..1 or 8 bits, without a header of their own.

Frames are read one by one from the mapped file. Knows nothing of rows or cases.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from angio.arrays import open_array
from angio.dicom.read import Cine
from casebook.cases import View
from casebook.catalogue import MAX_IMAGE_PX
from casebook.errors import DataError

CINE = "the cine file"
"""What messages call it: lab file names often carry the patient's number."""


class ArrayCine:
    """An open NPY file; nothing of it is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: it is not an array of frames.
        """
        array = open_array(path, CINE)
        shape = array.shape if array.ndim != 2 else (1, *array.shape)
        if len(shape) != 3 or shape[1] * shape[2] > MAX_IMAGE_PX:
            raise DataError(
                f"{CINE} has shape {shape}; expected frames × height × width; save it so"
            )
        self._frames: np.ndarray[Any, Any] = array.reshape(shape)
        self.n_frames: int = shape[0]

    def __iter__(self) -> Iterator[UInt16[np.ndarray, "h w"]]:
        """Every frame's stored values in the order of time."""
        for frame in range(self.n_frames):
            yield self._stored((frame,))[0][0]

    def _stored(self, frames: tuple[int, ...]) -> tuple[UInt16[np.ndarray, "t h w"], int]:
        """Stored values of some frames and how many bits they have."""
        read = np.asarray(self._frames[list(frames)])
        if read.dtype.kind == "f":
            if not np.isfinite(read).all() or read.min() < 0 or read.max() > 1:
                raise DataError(f"{CINE} has values outside 0..1; save it as 0..1 or 8 bits")
            return np.rint(read.astype(np.float64) * 65535).astype(np.uint16), 16
        if read.dtype == np.uint8:
            return read.astype(np.uint16), 8
        raise DataError(f"{CINE} has type {read.dtype}; save it as 0..1 or 8 bits")

    def read(self, frames: tuple[int, ...], view: View | None) -> Cine:
        """Some frames of it.

        Raises:
            DataError: values outside 0..1, or of another type.
        """
        stored, bits = self._stored(frames)
        views = (view,) * len(frames)
        return Cine(stored, frames, self.n_frames, bits, "MONOCHROME2", None, None, views, None)
