"""Opening a file: its header in memory, its pixel data left where they lie.

Knows nothing of what header or pixels mean.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import pydicom
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from angio.dicom.decode import DAMAGE
from angio.dicom.pixeldata import PixelRegion
from casebook.errors import DataError, TooLargeError

# What it would warn of is quoted in the warning, and may be a patient's name or date of birth.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

MAX_INFLATED_BYTES = 2**28
"""Largest deflated data set that is inflated."""

_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, _PIXEL_DATA})
_PREAMBLE_BYTES = 132
_GROUP_LENGTH_BYTES = 12
_UNDEFINED = 0xFFFFFFFF
_CHUNK_BYTES = 2**20


def open_dataset(path: Path, name: str | None = None) -> FileDataset:
    """The header of a file, with its pixel data as a region that is read when needed.

    Args:
        path: The file.
        name: What messages call it, where its name may say who the patient is.

    Raises:
        DataError: missing, not DICOM, truncated or damaged.
        TooLargeError: it inflates to more than any angiogram.
    """
    name = name or path.name
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            ds = _opened(path)
            for _ in ds.iterall() if ds is not None else ():
                pass  # values are made when first looked at, and may turn out to be damaged
    except FileNotFoundError:
        raise DataError(f"{name} is not there; correct the path or restore it") from None
    except InvalidDicomError:
        raise DataError(f"{name} is not a DICOM file; give the original export") from None
    except TooLargeError as problem:
        raise TooLargeError(f"{name} {problem}") from None
    except DAMAGE as problem:
        raise DataError(
            f"{name} cannot be read ({type(problem).__name__}); export it again"
        ) from None
    if ds is None or any("End of file" in str(remark.message) for remark in remarks):
        raise DataError(f"{name} is truncated; copy or export it again")
    return ds


def _opened(path: Path) -> FileDataset | None:
    """The data set; nothing when its pixel data are cut off."""
    with path.open("rb") as stream:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            stream.seek(
                _PREAMBLE_BYTES + _GROUP_LENGTH_BYTES + int(meta.FileMetaInformationGroupLength)
            )
            plain = _inflated(stream)
            memory = io.BytesIO(plain)
            header = read_dataset(memory, False, True, stop_when=_at_pixels)
            ds = FileDataset(str(path), header, b"\0" * 128, meta, False, True)
            ds.set_original_encoding(False, True, header._character_set)
            return _with_pixels(ds, plain, memory, len(plain))
        ds = dcmread(stream, stop_before_pixels=True)
        return _with_pixels(ds, path, stream, size)


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return int(tag) in _PIXEL_TAGS


def _inflated(stream: io.BufferedIOBase) -> bytes:
    """A deflated data set, inflated piece by piece so that a bomb is noticed early."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = bytearray()
    while not inflater.eof and (coded := stream.read(_CHUNK_BYTES)):
        while coded and not inflater.eof:
            plain += inflater.decompress(coded, _CHUNK_BYTES)
            coded = inflater.unconsumed_tail
            if len(plain) > MAX_INFLATED_BYTES:
                raise TooLargeError(
                    f"inflates to more than {MAX_INFLATED_BYTES >> 20} MB; export it not deflated"
                )
    plain += inflater.flush()
    if not inflater.eof:
        raise EOFError("deflated data are cut off")
    if inflater.unused_data.strip(b"\0") or stream.read(1):
        raise ValueError("something follows the deflated data")
    return bytes(plain)


def _with_pixels(
    ds: FileDataset, source: Path | bytes, stream: io.BufferedIOBase, size: int
) -> FileDataset | None:
    """The data set with the element at which reading stopped; nothing when it is cut off."""
    implicit, little = ds.original_encoding
    head = stream.read(12)
    if not head:
        return ds
    order = "<" if little else ">"
    if len(head) < (8 if implicit else 12):
        return None
    group, element = struct.unpack_from(f"{order}HH", head)
    if (group << 16) + element != _PIXEL_DATA:
        return ds  # floating point, which layout_of refuses as no pixel data
    if implicit:
        vr, used = "OW", 8
        (length,) = struct.unpack_from(f"{order}L", head, 4)
    else:
        vr, used = head[4:6].decode("ascii"), 12
        (length,) = struct.unpack_from(f"{order}L", head, 8)
    start = stream.tell() - len(head) + used
    defined = length != _UNDEFINED
    if vr not in ("OB", "OW"):
        raise ValueError("pixel data of an unknown representation")
    if defined and start + length > size:
        return None
    region = PixelRegion(source, start, length if defined else size - start, vr, defined=defined)
    ds.add(DataElement(_PIXEL_DATA, vr, region))
    return ds
