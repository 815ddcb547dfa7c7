"""Pixel data of one frame, whatever its transfer syntax.

Knows nothing of angles or spacing. JPEG family by imagecodecs, which also decodes the 12-bit JPEG
Extended that every pydicom plugin refuses; RLE and raw by pydicom.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from jaxtyping import UInt16
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from casebook.errors import DataError

Decoder = Callable[[bytes], Any]

_DECODERS: dict[str, Decoder] = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
}
_BY_PYDICOM = frozenset(
    {
        "1.2.840.10008.1.2",
        "1.2.840.10008.1.2.1",
        "1.2.840.10008.1.2.1.99",
        "1.2.840.10008.1.2.2",
        "1.2.840.10008.1.2.5",
    }
)
DAMAGE = (
    ValueError, KeyError, AttributeError, TypeError, IndexError, EOFError, OSError, RuntimeError,
    OverflowError, struct.error, zlib.error,
)  # fmt: skip
"""What pydicom and the codecs raise on damaged files; they declare no errors of their own."""


def check_syntax(uid: UID) -> None:
    """Refuse a transfer syntax that cannot be decoded, by its name.

    Raises:
        DataError: names the syntax and what to do.
    """
    if str(uid) not in _DECODERS and str(uid) not in _BY_PYDICOM:
        raise DataError(
            f"transfer syntax {uid.name} ({uid}) cannot be decoded; convert the file to "
            "Explicit VR Little Endian, RLE, JPEG-LS or JPEG 2000"
        )


def decode_frame(ds: FileDataset, frame: int, n_frames: int) -> UInt16[np.ndarray, "h w"]:
    """Stored values of one frame; bits above the stored ones are cleared.

    Args:
        ds: The whole data set.
        frame: Counted from 0.
        n_frames: Frames in the file.

    Raises:
        DataError: the pixel data is truncated or damaged.
    """
    syntax = str(ds.file_meta.TransferSyntaxUID)
    shape = (int(ds.Rows), int(ds.Columns))
    try:
        if syntax in _DECODERS:
            coded = get_frame(ds.PixelData, frame, number_of_frames=n_frames)
            pixels = np.asarray(_DECODERS[syntax](coded))
        else:
            pixels = np.asarray(pixel_array(ds, index=frame, raw=True))
    except DAMAGE as problem:
        raise DataError(
            f"frame {frame} of {n_frames} cannot be decoded ({type(problem).__name__}: {problem}); "
            "export the file again"
        ) from None
    if pixels.shape != shape:
        raise DataError(
            f"frame {frame} decodes to {pixels.shape} px; the header says {shape}; export it again"
        )
    mask = (1 << int(ds.BitsStored)) - 1
    return np.asarray(pixels.astype(np.uint16) & np.uint16(mask))
