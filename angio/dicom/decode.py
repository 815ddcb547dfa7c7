"""Pixels of single frames, whatever their transfer syntax, as one grey channel.

JPEG, JPEG-LS, JPEG 2000, HTJ2K and RLE by imagecodecs, which also decodes the 12-bit JPEG Extended
that every pydicom plugin refuses; video by the optional PyAV. Knows nothing of angles or spacing.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BufferedIOBase
from typing import Any

import imagecodecs
import numpy as np
from jaxtyping import UInt8, UInt16
from pydicom.dataset import FileDataset
from pydicom.errors import BytesLengthException
from pydicom.uid import UID

from angio.dicom.codestream import declared
from angio.dicom.layout import ImageLayout
from angio.dicom.pixeldata import PixelRegion, coded_frames, joined, region_of
from angio.dicom.video import VIDEO, video_frames
from casebook.errors import DataError

Decoder = Callable[[bytes], Any]

_DECODERS: dict[str, Decoder] = {
    "1.2.840.10008.1.2.4.50": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.51": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.57": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.jpeg8_decode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.201": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.202": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.203": imagecodecs.jpeg2k_decode,
}
_JPEG = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
_RLE = "1.2.840.10008.1.2.5"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NATIVE = frozenset(
    {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", _BIG_ENDIAN}
)
DAMAGE = (
    ValueError, KeyError, AttributeError, TypeError, IndexError, EOFError, OSError, RuntimeError,
    OverflowError, MemoryError, struct.error, zlib.error, BytesLengthException,
)  # fmt: skip
"""What pydicom and the codecs raise on damaged files; they declare no errors of their own."""


def check_syntax(uid: UID) -> None:
    """Refuse a transfer syntax that cannot be decoded, by its name.

    Raises:
        DataError: names the syntax and what to do.
    """
    if str(uid) not in {*_DECODERS, *_NATIVE, *VIDEO, _RLE}:
        raise DataError(
            f"transfer syntax {uid.name} ({uid}) cannot be decoded; convert the file to "
            "Explicit VR Little Endian, RLE, JPEG-LS or JPEG 2000"
        )


def _luma(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    """Grey of a colour picture. Source: ITU-R BT.601-7 2.5.1, in 16-bit fixed point."""
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)
    total = (pixels.astype(np.uint32) * weights).sum(axis=2) + 0x8000
    return np.asarray((total >> 16).astype(np.uint8))


def _grey_of(pixels: UInt8[np.ndarray, "h w 3"], photometric: str) -> UInt8[np.ndarray, "h w"]:
    """Grey of decoded colour: the luma of RGB, the first channel of luma and colour difference."""
    luma_first = photometric in ("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422")
    return np.asarray(pixels[:, :, 0]) if luma_first else _luma(pixels)


def _native(layout: ImageLayout, raw: bytes) -> np.ndarray:
    kind = np.dtype(np.uint8 if layout.allocated == 8 else np.uint16)
    big = layout.syntax == _BIG_ENDIAN
    values = np.frombuffer(raw, kind.newbyteorder(">" if big else "<"))
    if layout.samples == 1:
        return values.reshape(layout.hw)
    if layout.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422"):
        pairs = values.reshape(layout.hw[0], layout.hw[1] // 2, 4)  # Y1 Y2 Cb Cr
        return np.asarray(pairs[:, :, :2].reshape(layout.hw))
    shape = (3, *layout.hw) if layout.planar else (*layout.hw, 3)
    colour = values.reshape(shape)
    return _grey_of(colour.transpose(1, 2, 0) if layout.planar else colour, layout.photometric)


def _rle(layout: ImageLayout, coded: bytes) -> np.ndarray:
    """Source: DICOM PS3.5 annex G."""
    (segments,) = struct.unpack_from("<L", coded)
    expected = layout.samples * layout.allocated // 8
    if segments != expected:
        raise ValueError(f"{segments} RLE segments; the header needs {expected}")
    kind = np.dtype("<u2" if layout.allocated == 16 else "u1")
    values = np.frombuffer(imagecodecs.dicomrle_decode(coded, kind), kind)
    count = layout.hw[0] * layout.hw[1] * layout.samples
    if len(values) not in (count, count + count % 2):
        raise ValueError(f"{len(values)} values; the header says {count}")
    if layout.samples == 1:
        return values[:count].reshape(layout.hw)
    planes = values[:count].reshape(3, *layout.hw).transpose(1, 2, 0)
    return _grey_of(planes, layout.photometric)


def _jpeg_grey(coded: bytes, photometric: str) -> Any:
    """Colour JPEG as grey, without a way over RGB where the file has luma already."""
    named = photometric == "RGB" and b"Adobe" not in coded[:4096]
    return imagecodecs.jpeg8_decode(
        coded, colorspace="RGB" if named else None, outcolorspace="GRAYSCALE"
    )


def _compressed(layout: ImageLayout, coded: bytes) -> np.ndarray:
    said = declared(coded)
    if (said.hw, said.samples) != (layout.hw, layout.samples):
        raise ValueError(
            f"coded as {said.hw} px of {said.samples} samples; the header says {layout.hw} of "
            f"{layout.samples}"
        )
    if said.bits > layout.allocated:
        raise ValueError(f"coded with {said.bits} bits; the header allocates {layout.allocated}")
    if layout.samples == 3 and layout.syntax in _JPEG:
        return np.asarray(_jpeg_grey(coded, layout.photometric))
    pixels = np.asarray(_DECODERS[layout.syntax](coded))
    if pixels.dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise ValueError(f"decodes to {pixels.dtype}; expected unsigned values of 8 or 16 bits")
    if pixels.ndim == 3:
        return _grey_of(pixels, layout.photometric)
    return pixels


def _checked(layout: ImageLayout, pixels: np.ndarray) -> UInt16[np.ndarray, "h w"]:
    if pixels.shape != layout.hw:
        raise ValueError(f"decodes to {pixels.shape} px; the header says {layout.hw}")
    stored = pixels.astype(np.uint16)
    limit = (1 << layout.bits) - 1
    if layout.crowded:
        return np.asarray(stored & np.uint16(limit))
    if int(stored.max()) > limit:
        raise ValueError(f"value {int(stored.max())}; the header says {layout.bits} bits")
    return stored


def _native_frames(
    layout: ImageLayout, region: PixelRegion, stream: BufferedIOBase, frames: Sequence[int]
) -> Iterator[np.ndarray]:
    expected = layout.frame_bytes * layout.n_frames
    if not region.defined or region.length not in (expected, expected + expected % 2):
        raise ValueError(f"{region.length} bytes of pixel data; the header needs {expected}")
    swapped = layout.syntax == _BIG_ENDIAN and layout.allocated == 8 and region.vr == "OW"
    for frame in frames:
        start, end = frame * layout.frame_bytes, (frame + 1) * layout.frame_bytes
        if not swapped:
            yield _native(layout, region.piece(stream, start, end - start))
            continue
        first, last = start - start % 2, end + end % 2  # bytes lie in words, the second one first
        words = np.frombuffer(region.piece(stream, first, last - first), "u1").reshape(-1, 2)
        yield _native(layout, words[:, ::-1].tobytes()[start - first : end - first])


def _coded(
    ds: FileDataset,
    layout: ImageLayout,
    region: PixelRegion,
    stream: BufferedIOBase,
    frames: Sequence[int],
) -> Iterator[np.ndarray]:
    video = layout.syntax in VIDEO
    parts = coded_frames(ds, region, stream, layout.n_frames, whole=video)
    if video:
        yield from video_frames(
            joined(region, stream, parts[0]), layout.syntax, layout.hw, layout.n_frames, frames
        )
        return
    decode = partial(_rle if layout.syntax == _RLE else _compressed, layout)
    for frame in frames:
        yield decode(joined(region, stream, parts[frame]))


def decode_frames(
    ds: FileDataset, layout: ImageLayout, frames: Sequence[int]
) -> Iterator[UInt16[np.ndarray, "h w"]]:
    """Stored values of some frames, one by one; of colour, the luma in 8 bits.

    Only these frames are read from the file, except of video, whose frames build on each other.

    Args:
        ds: The data set, with its pixel data or the region where they lie.
        layout: What its header declares.
        frames: Counted from 0, all of them below `layout.n_frames`.

    Raises:
        DataError: the pixel data are truncated, damaged, or not what the header declares.
    """
    region = region_of(ds)
    read = _native_frames if layout.syntax in _NATIVE else partial(_coded, ds)
    done = 0
    try:
        with region.opened() as stream:
            for pixels in read(layout, region, stream, frames):
                yield _checked(layout, pixels)
                done += 1
    except DAMAGE as problem:
        frame = frames[min(done, len(frames) - 1)]
        raise DataError(
            f"frame {frame} of {layout.n_frames} cannot be decoded ({type(problem).__name__}: "
            f"{problem}); export the file again"
        ) from None
