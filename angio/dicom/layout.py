"""How a header says its pixels are laid out, checked before anything is decoded.

Knows no codecs and no geometry.
"""

from dataclasses import dataclass

from pydicom.dataset import FileDataset

from casebook.errors import DataError, TooLargeError

GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR = frozenset(
    {
        "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "YBR_PARTIAL_420",
        "YBR_PARTIAL_422",
    }
)  # fmt: skip
MAX_SIDE_PX = 8192
MAX_FRAMES = 100_000
MAX_READ_BYTES = 2**30
"""Most that one reading may take in memory, at two bytes a pixel."""


@dataclass(frozen=True)
class ImageLayout:
    """Size, depth and channels of a file's frames."""

    syntax: str
    """Transfer syntax UID."""
    hw: tuple[int, int]
    n_frames: int
    samples: int
    """1, or 3 for colour."""
    allocated: int
    """Bits a sample takes."""
    bits: int
    """Bits a sample has."""
    photometric: str
    planar: bool
    """Colours lie one plane after the other."""
    crowded: bool
    """Overlays may lie in the bits above the stored ones."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame that is not compressed."""
        channels = 2 if self.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422") else self.samples
        return self.hw[0] * self.hw[1] * channels * self.allocated // 8


def _whole(ds: FileDataset, keyword: str, default: int = 0) -> int:
    value = ds.get(keyword)
    return default if value is None or value == "" else int(value)


def _crowded(ds: FileDataset) -> bool:
    """Whether an overlay of the retired kind shares the pixels' bits. Source: PS3.3-2004 C.9.2."""
    return any(
        (group, 0x0102) in ds and ds[group, 0x0102].value for group in range(0x6000, 0x6020, 2)
    )


def _check_depth(layout: ImageLayout, high: int, signed: int, name: str) -> None:
    if signed:
        raise DataError(f"{name} stores signed values; expected unsigned, as angiograms are")
    if layout.allocated not in (8, 16) or not 1 <= layout.bits <= layout.allocated:
        raise DataError(
            f"{name} stores {layout.bits} of {layout.allocated} bits; expected 8 to 16 of 8 or 16"
        )
    if high != layout.bits - 1:
        raise DataError(
            f"{name} has its highest bit at {high} of {layout.bits} stored; expected "
            f"{layout.bits - 1}; export it again"
        )


def _check_channels(layout: ImageLayout, name: str) -> None:
    fits = GREY if layout.samples == 1 else COLOUR if layout.samples == 3 else frozenset()
    if layout.photometric not in fits:
        raise DataError(
            f"{name} is {layout.photometric or 'of unknown colour'} of {layout.samples} samples; "
            "expected MONOCHROME1 or 2 of one sample, RGB or YBR of three; export it as such"
        )
    if layout.samples == 3 and (layout.allocated, layout.bits) != (8, 8):
        raise DataError(
            f"{name} has colour of {layout.bits} in {layout.allocated} bits; expected 8 in 8"
        )


def layout_of(ds: FileDataset, name: str) -> ImageLayout:
    """The layout of a data set's frames; `name` is used in messages.

    Raises:
        DataError: there are no pixels, or they are declared to be something no reader here takes.
    """
    if "TransferSyntaxUID" not in ds.file_meta:
        raise DataError(f"{name} does not name its transfer syntax; export it again")
    if "PixelData" not in ds:
        raise DataError(f"{name} has no pixel data; export the images, not only the header")
    try:
        layout = ImageLayout(
            syntax=str(ds.file_meta.TransferSyntaxUID),
            hw=(_whole(ds, "Rows"), _whole(ds, "Columns")),
            n_frames=_whole(ds, "NumberOfFrames", 1),
            samples=_whole(ds, "SamplesPerPixel", 1),
            allocated=_whole(ds, "BitsAllocated"),
            bits=_whole(ds, "BitsStored"),
            photometric=str(ds.get("PhotometricInterpretation") or "").strip(),
            planar=bool(_whole(ds, "PlanarConfiguration")),
            crowded=_crowded(ds),
        )
        high = _whole(ds, "HighBit", layout.bits - 1)
        signed = _whole(ds, "PixelRepresentation")
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise DataError(f"{name} has a damaged image header; export it again") from None
    _check_channels(layout, name)
    _check_depth(layout, high, signed, name)
    for side, found in zip(("rows", "columns"), layout.hw, strict=True):
        if not 1 <= found <= MAX_SIDE_PX:
            raise DataError(f"{name} has {found} {side}; expected 1–{MAX_SIDE_PX}; export it again")
    if not 1 <= layout.n_frames <= MAX_FRAMES:
        raise DataError(
            f"{name} declares {layout.n_frames} frames; expected 1–{MAX_FRAMES}; export it again"
        )
    return layout


def check_size(layout: ImageLayout, n_wanted: int, name: str) -> None:
    """Refuse to read more frames at once than memory is meant for.

    Raises:
        TooLargeError: says how much was asked for.
    """
    wanted = 2 * layout.hw[0] * layout.hw[1] * n_wanted
    if wanted > MAX_READ_BYTES:
        raise TooLargeError(
            f"{name}: {n_wanted} frames of {layout.hw[0]}×{layout.hw[1]} px take "
            f"{wanted >> 20} MB; at most {MAX_READ_BYTES >> 20} MB are read at once; ask for fewer"
        )
