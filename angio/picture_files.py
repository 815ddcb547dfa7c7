"""Pictures and mask files from outside: PNG, JPEG, TIFF, BMP and NPY, refused when in doubt.

What a header declares is checked before anything is decoded; a PNG's checksums are checked, since
its decoder leaves out those of the pixels. Knows no data set.
"""

import io
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from PIL import Image

from angio.arrays import open_array
from angio.rendering import render
from angio.source_files import size_of
from casebook.catalogue import MAX_IMAGE_PX, png_is_whole
from casebook.errors import DataError, TooLargeError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_FILE_BYTES = 256 * 1024**2
MASK_FORMATS = ("PNG", "BMP", "TIFF")
"""JPEG blurs the edges of a mask, so it is none."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
MASK_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".npy"})


def _open(path: Path, name: str, formats: tuple[str, ...]) -> np.ndarray[Any, np.dtype[Any]]:
    """The stored values, rows × columns or with a third axis of colours.

    Raises:
        DataError: missing, not of these formats, of several pages, damaged.
        TooLargeError: more pixels than a frame ever has.
    """
    size = size_of(path, name)
    if size > MAX_FILE_BYTES:
        raise TooLargeError(f"{name} has {size} bytes; expected at most {MAX_FILE_BYTES}")
    try:
        payload = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(io.BytesIO(payload), formats=formats) as image:
                if image.width * image.height > MAX_IMAGE_PX:
                    raise TooLargeError(
                        f"{name} has {image.width}×{image.height} px; expected at most "
                        f"{MAX_IMAGE_PX} in all"
                    )
                if getattr(image, "n_frames", 1) != 1:
                    raise DataError(f"{name} has several pages; give one file for each picture")
                if image.format == "PNG" and not png_is_whole(payload):
                    raise DataError(f"{name} is damaged (a checksum differs); copy it again")
                if image.mode in {"P", "PA"} and formats is FORMATS:
                    return np.array(image.convert("RGBA"))
                return np.array(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(f"{name} has too many px; expected at most {MAX_IMAGE_PX}") from None
    except (
        OSError, ValueError, TypeError, SyntaxError, KeyError, IndexError, OverflowError,
        zlib.error, EOFError, Warning, MemoryError,
    ) as problem:  # fmt: skip
        raise DataError(
            f"{name} cannot be read ({type(problem).__name__}); expected "
            f"{', '.join(formats)}; save it again"
        ) from None


def read_picture(
    path: Path, name: str
) -> tuple[UInt8[np.ndarray, "h w"], UInt16[np.ndarray, "h w"] | None]:
    """A picture in 8 bits, and its stored bits where they are deeper.

    Colours become luma; 16-bit grey is rendered as angiograms are.

    Raises:
        DataError: missing, damaged or of a kind that has no defined grey.
        TooLargeError: more pixels than a frame ever has.
    """
    values = _open(path, name, FORMATS)
    if values.dtype == np.bool_:
        return np.where(values, np.uint8(255), np.uint8(0)), None
    if values.ndim == 3 and values.dtype == np.uint8 and values.shape[2] in {2, 3, 4}:
        colours = values[..., :1].repeat(3, axis=2) if values.shape[2] == 2 else values[..., :3]
        return np.array(Image.fromarray(np.ascontiguousarray(colours)).convert("L")), None
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise DataError(f"{name} is {values.dtype} {values.shape}; expected 8 or 16 bit grey, RGB")
    if values.dtype == np.uint8:
        return values, None
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{name} has values outside 0 to 65535; save it as 16-bit grey")
    stored = values.astype(np.uint16)
    return render(stored), stored


def read_index(path: Path, name: str) -> UInt16[np.ndarray, "h w"]:
    """A mask file whose pixels are label numbers; palettes keep their numbers, not their colours.

    Raises:
        DataError: missing, damaged, coloured, or with values that are no numbers from 0.
        TooLargeError: more pixels than a frame ever has.
    """
    if path.suffix.casefold() == ".npy":
        mapped = open_array(path, name)
        if mapped.size > MAX_IMAGE_PX:
            raise TooLargeError(f"{name} has {mapped.size} px; expected at most {MAX_IMAGE_PX}")
        values = np.array(mapped)
    else:
        values = _open(path, name, MASK_FORMATS)
    if values.ndim == 3 and values.dtype == np.uint8 and values.shape[2] in {2, 3, 4}:
        opaque = values[..., : 1 if values.shape[2] == 2 else 3]
        if (opaque != opaque[..., :1]).any():
            raise DataError(f"{name} is in colours; expected label numbers; save it as grey")
        values = opaque[..., 0]
    if values.ndim != 2:
        raise DataError(f"{name} has shape {values.shape}; expected rows × columns")
    if values.dtype.kind == "f" and not (
        np.isfinite(values).all() and np.array_equal(values, np.rint(values))
    ):
        raise DataError(f"{name} has fractions; expected whole label numbers")
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{name} has values outside 0 to 65535; expected label numbers")
    return np.asarray(values.astype(np.uint16))


def read_bitmap(path: Path, name: str) -> Bool[np.ndarray, "h w"]:
    """A mask file of one thing: 0, and one other value.

    Raises:
        DataError: as `read_index`, or more than two values: a picture rather than a mask.
    """
    values = read_index(path, name)
    found = np.unique(values)
    if found.size > 2 or (found.size == 2 and found[0] != 0):
        raise DataError(
            f"{name} has {found.size} different values from {found[0]}; expected 0 and one other; "
            "give the mask, not the picture"
        )
    return np.asarray(values > 0)
