"""Where the pixel data of a file lie, so that one frame can be read without the others.

A region is a stream that pydicom accepts as an element's value. Knows no codecs.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from pydicom.dataset import Dataset

from casebook.errors import DataError

_ITEM, _DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
_UNDEFINED = 0xFFFFFFFF
_ITEMS_MAX = 1_000_000
_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")
"""How a coded picture begins: JPEG and JPEG-LS, JPEG 2000."""

Fragments = tuple[tuple[int, int], ...]
"""Start and length of each part of one coded frame."""


class PixelRegion(io.BufferedIOBase):
    """The value of a Pixel Data element, read where it lies."""

    def __init__(
        self, source: Path | bytes, start: int, length: int, vr: str, *, defined: bool
    ) -> None:
        """A region of a file or of bytes.

        Args:
            source: What holds it.
            start: Its first byte there.
            length: Its bytes; up to the end of the source where the header does not say.
            vr: Its value representation, `OB` or `OW`.
            defined: The header says how long it is.
        """
        super().__init__()
        self._source = source
        self._start = start
        self._at = 0
        self.length = length
        self.vr = vr
        self.defined = defined

    def __deepcopy__(self, memo: dict[int, object]) -> "PixelRegion":
        return PixelRegion(self._source, self._start, self.length, self.vr, defined=self.defined)

    @contextmanager
    def opened(self) -> Iterator[io.BufferedIOBase]:
        """The whole source as a stream; positions in it count from `start`."""
        if isinstance(self._source, bytes):
            with io.BytesIO(self._source) as memory:
                yield memory
        else:
            with self._source.open("rb") as stream:
                yield stream

    def piece(self, stream: io.BufferedIOBase, at: int, length: int) -> bytes:
        """Some bytes of the region.

        Raises:
            EOFError: it has fewer.
        """
        if at < 0 or length < 0 or at + length > self.length:
            raise EOFError(f"bytes {at} to {at + length} of {self.length}")
        stream.seek(self._start + at)
        found = stream.read(length)
        if len(found) != length:
            raise EOFError(f"{len(found)} of {length} bytes at {at}")
        return found

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes already read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a byte of the region."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.length}[whence]
        self._at = min(max(base + offset, 0), self.length)
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes, all the rest when no number is given."""
        left = self.length - self._at
        wanted = left if size is None or size < 0 else min(size, left)
        with self.opened() as stream:
            found = self.piece(stream, self._at, wanted)
        self._at += len(found)
        return found


def region_of(ds: Dataset) -> PixelRegion:
    """The pixel data of a data set, as opened by us or made in memory."""
    element = ds["PixelData"]
    value = element.value
    if isinstance(value, PixelRegion):
        return value
    if not isinstance(value, bytes):
        raise DataError("its pixel data are not bytes; export it again")
    return PixelRegion(value, 0, len(value), str(element.VR), defined=True)


def _items(region: PixelRegion, stream: io.BufferedIOBase) -> Iterator[tuple[int, int]]:
    """Start and length of each item of encapsulated pixel data.

    Raises:
        EOFError: the sequence is cut off.
        ValueError: something else than an item lies in it.
    """
    at = 0
    while at < region.length:
        group, element, length = struct.unpack("<HHL", region.piece(stream, at, 8))
        if (group, element) == _DELIMITER:
            return
        if (group, element) != _ITEM or length == _UNDEFINED:
            raise ValueError(f"({group:04X},{element:04X}) where an item is expected")
        if at + 8 + length > region.length:
            raise EOFError(f"an item of {length} bytes at {at} of {region.length}")
        yield at + 8, length
        at += 8 + length
    if not region.defined:
        raise EOFError("no sequence delimiter")


def _grouped(
    items: Sequence[tuple[int, int]], offsets: Sequence[int], n_frames: int
) -> list[Fragments]:
    """Fragments of each frame, by a table of offsets that must point at items."""
    first = items[0][0] - 8
    number_at = {start - 8 - first: number for number, (start, _) in enumerate(items)}
    numbers = [number_at.get(offset, -1) for offset in offsets]
    if len(offsets) != n_frames or numbers[0] != 0 or sorted(set(numbers)) != numbers:
        raise ValueError(f"a table of {len(offsets)} offsets does not fit {len(items)} fragments")
    ends = [*numbers[1:], len(items)]
    return [tuple(items[a:b]) for a, b in zip(numbers, ends, strict=True)]


def coded_frames(
    ds: Dataset,
    region: PixelRegion,
    stream: io.BufferedIOBase,
    n_frames: int,
    *,
    whole: bool = False,
) -> list[Fragments]:
    """Where each coded frame lies in encapsulated pixel data.

    Args:
        ds: For an extended offset table.
        region: The pixel data.
        stream: Its source.
        n_frames: Frames the header declares.
        whole: All fragments together are one stream, as of video.

    Raises:
        EOFError: cut off.
        ValueError: the fragments do not make that many frames.

    Source: DICOM PS3.5 A.4.
    """
    items = list(islice(_items(region, stream), _ITEMS_MAX + 1))
    if len(items) > _ITEMS_MAX:
        raise ValueError(f"more than {_ITEMS_MAX} fragments")
    if len(items) < 2:
        raise ValueError("no fragment")
    table, fragments = items[0], items[1:]
    if whole:
        return [tuple(fragments)]
    extended = ds.get("ExtendedOffsetTable")
    if extended:
        offsets = [int(value) for (value,) in struct.iter_unpack("<Q", extended)]
        return _grouped(fragments, offsets, n_frames)
    if table[1]:
        coded = region.piece(stream, *table)
        return _grouped(
            fragments, [int(value) for (value,) in struct.iter_unpack("<L", coded)], n_frames
        )
    if len(fragments) == n_frames:
        return [(fragment,) for fragment in fragments]
    heads = [region.piece(stream, at, min(4, length)) for at, length in fragments]
    starts = [n for n, head in enumerate(heads) if head.startswith(_STARTS)]
    if starts[:1] != [0] or len(starts) != n_frames:
        raise ValueError(f"{len(fragments)} fragments cannot be told apart as {n_frames} frames")
    ends = [*starts[1:], len(fragments)]
    return [tuple(fragments[a:b]) for a, b in zip(starts, ends, strict=True)]


def joined(region: PixelRegion, stream: io.BufferedIOBase, fragments: Fragments) -> bytes:
    """The bytes of one coded frame."""
    return b"".join(region.piece(stream, at, length) for at, length in fragments)
