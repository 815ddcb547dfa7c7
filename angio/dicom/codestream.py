"""What a coded picture says of itself before it is decoded: its size, channels and depth.

A codestream larger than its header is refused before a decoder makes room for it. Decodes nothing.
"""

import struct
from dataclasses import dataclass

_JPEG_START, _J2K_START, _END = b"\xff\xd8", b"\xff\x4f\xff\x51", b"\xff\xd9"
_FRAME_HEADERS = frozenset({0xC0, 0xC1, 0xC3, 0xF7})
"""SOF markers of the processes DICOM knows: baseline, extended, lossless, JPEG-LS."""
_OTHER_HEADERS = frozenset(range(0xC0, 0xD0)) - _FRAME_HEADERS - {0xC4, 0xC8, 0xCC}
"""Progressive and arithmetic ones; some take minutes where a few bytes ask for many scans."""
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_TRAILING_MAX = 16
_TILES_MAX = 4096


@dataclass(frozen=True)
class Declared:
    """The size a codestream declares."""

    hw: tuple[int, int]
    samples: int
    bits: int
    """Of one sample."""


def _of_jpeg(coded: bytes) -> Declared:
    at = 2
    while True:
        marker, code, length = struct.unpack_from(">BBH", coded, at)
        if marker != 0xFF:
            raise ValueError(f"{marker:02X} where a marker is expected")
        if code == 0xFF:
            at += 1
        elif code in _ALONE:
            at += 2
        elif code in _FRAME_HEADERS:
            bits, height, width, samples = struct.unpack_from(">BHHB", coded, at + 4)
            return Declared((height, width), samples, bits)
        elif code in _OTHER_HEADERS:
            raise ValueError(f"JPEG process {code - 0xC0}, which no transfer syntax here has")
        elif code == 0xDA:
            raise ValueError("no frame header before the scan")
        else:
            at += 2 + max(length, 2)


def _of_j2k(coded: bytes) -> Declared:
    x1, y1, x0, y0, tile_w, tile_h, tile_x, tile_y, samples = struct.unpack_from(">8LH", coded, 8)
    depth = coded[42]
    if depth & 0x80:
        raise ValueError("signed samples")
    if not tile_w or not tile_h or samples == 0:
        raise ValueError("tiles without extent")
    tiles = -(-(x1 - tile_x) // tile_w) * -(-(y1 - tile_y) // tile_h)
    if not 0 < tiles <= _TILES_MAX:
        raise ValueError(f"{tiles} tiles")
    return Declared((y1 - y0, x1 - x0), samples, (depth & 0x7F) + 1)


def declared(coded: bytes) -> Declared:
    """What a JPEG, JPEG-LS or JPEG 2000 codestream declares.

    Raises:
        ValueError: it is none, is cut off, or declares something that no frame is.
        struct.error: it ends within its header.

    Source: ITU-T T.81 B.2.2, T.87 C.2.2, T.800 A.5.1.
    """
    if coded.rfind(_END, max(0, len(coded) - _TRAILING_MAX)) < 0:
        raise ValueError("no end of the codestream")
    if coded.startswith(_J2K_START):
        return _of_j2k(coded)
    if coded.startswith(_JPEG_START):
        return _of_jpeg(coded)
    raise ValueError("no JPEG, JPEG-LS or JPEG 2000 codestream")
