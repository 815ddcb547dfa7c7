"""Reading cines: stored pixels with the geometry and timing the header gives.

Frames count from 0 here and everywhere above; only this folder knows that DICOM counts from 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt16
from pydicom.dataset import FileDataset

from angio.dicom.decode import check_syntax, decode_frames
from angio.dicom.geometry import frame_ms_of, spacing_of, times_ms_of, views_of
from angio.dicom.layout import ImageLayout, check_size, layout_of
from angio.dicom.opening import open_dataset
from angio.dicom.subtraction import is_logarithmic, mask_picture, mask_uses, use_for
from angio.dicom.tone import PLAIN, Tone, tone_of
from casebook.cases import PixelSpacing, View
from casebook.errors import DataError

__all__ = [
    "Cine", "OpenRun", "cine_of", "frames_of", "modality_of", "n_frames_of", "open_dataset",
    "read_cine", "subtractable_frames",
]  # fmt: skip

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]
OpenRun = FileDataset
"""What `open_dataset` gives; those who do not know pydicom pass it on."""
_MODALITIES = frozenset({"XA", "US", "RF", "IVUS", "OT", "DX", "CR", "XC"})


@dataclass(frozen=True)
class Cine:
    """Some frames of one file, as stored; of colour, the luma."""

    pixels: UInt16[np.ndarray, "t h w"]
    frames: tuple[int, ...]
    """Which frames these are, counted from 0."""
    n_frames: int
    """Frames in the file."""
    bits: int
    """Bits stored of each value."""
    photometric: Photometric
    window: tuple[float, float] | None
    """Centre and width of the file's own VOI window."""
    spacing: PixelSpacing | None
    views: tuple[View | None, ...]
    """One for each of `frames`."""
    frame_ms: float | None
    """Usual time between frames."""
    tone: Tone = PLAIN
    """Modality and VOI look-up tables, not applied to `pixels`."""
    times_ms: tuple[float, ...] = ()
    """When each of `frames` was taken, from the file's first on; empty when it does not say."""
    subtracted: Float32[np.ndarray, "t h w"] | None = None
    """Each frame less its mask, where that was asked for and the file names masks."""

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in px."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    @property
    def rate_fps(self) -> float | None:
        """Frames per second."""
        return 1000.0 / self.frame_ms if self.frame_ms else None


def read_cine(path: Path, frames: Sequence[int] | None = None, *, subtract: bool = False) -> Cine:
    """Frames of an angiogram, or of another run in grey or colour.

    Args:
        path: A DICOM file.
        frames: Which frames, counted from 0; all when not given.
        subtract: Take away the masks the file itself names.

    Raises:
        DataError: missing, damaged, of a transfer syntax nobody here decodes, or without one of the
            frames asked for.
        TooLargeError: the frames asked for do not fit in memory.
        ConfigError: it is video, and the extra that reads it is not installed.
    """
    return cine_of(open_dataset(path), path.name, frames, subtract=subtract)


def modality_of(ds: FileDataset) -> str:
    """Its modality, such as `XA` or `US`; `other` when it is not one of those known here."""
    found = str(ds.get("Modality") or "").strip().upper()
    return found if found in _MODALITIES else "other"


def n_frames_of(ds: FileDataset, name: str) -> int:
    """Frames a data set declares.

    Raises:
        DataError: its image header cannot be used.
    """
    return layout_of(ds, name).n_frames


def _photometric(layout: ImageLayout) -> Photometric:
    return "MONOCHROME1" if layout.photometric == "MONOCHROME1" else "MONOCHROME2"


def _wanted(layout: ImageLayout, name: str, frames: Sequence[int] | None) -> tuple[int, ...]:
    wanted = tuple(range(layout.n_frames)) if frames is None else tuple(frames)
    missing = [frame for frame in wanted if not 0 <= frame < layout.n_frames]
    if missing or not wanted:
        raise DataError(
            f"{name} has frames 0 to {layout.n_frames - 1}; frame "
            f"{missing[0] if missing else 'none'} was asked for; ask for one of these (in a "
            "CSV: correct frame_index)"
        )
    return wanted


def frames_of(
    ds: FileDataset, name: str, frames: Sequence[int] | None = None, *, upright: bool = False
) -> Iterator[UInt16[np.ndarray, "h w"]]:
    """Stored values of frames one by one, however long the run.

    Args:
        ds: The data set.
        name: What messages call it.
        frames: Which frames, counted from 0; all when not given.
        upright: Invert MONOCHROME1, so that vessels are dark.

    Raises:
        DataError: as `read_cine`.
        ConfigError: likewise.
    """
    layout = layout_of(ds, name)
    check_size(layout, 1, name)
    try:
        check_syntax(ds.file_meta.TransferSyntaxUID)
        for pixels in decode_frames(ds, layout, _wanted(layout, name, frames)):
            inverted = upright and layout.photometric == "MONOCHROME1"
            yield np.uint16((1 << layout.bits) - 1) - pixels if inverted else pixels
    except DataError as problem:
        raise DataError(f"{name}: {problem}") from None


def subtractable_frames(ds: FileDataset, name: str) -> frozenset[int]:
    """Frames that the header names a mask for; none when it names no masks.

    Raises:
        DataError: it asks for a subtraction nobody here does.
    """
    n_frames = n_frames_of(ds, name)
    try:
        uses = mask_uses(ds, n_frames)
    except DataError as problem:
        raise DataError(f"{name}: {problem}") from None
    return frozenset().union(*(use.frames - set(use.masks) for use in uses))


def cine_of(
    ds: FileDataset, name: str, frames: Sequence[int] | None = None, *, subtract: bool = False
) -> Cine:
    """Frames of a data set that is open already; `name` is used in messages.

    Raises:
        DataError: as `read_cine`.
        TooLargeError: likewise.
        ConfigError: likewise.
    """
    layout = layout_of(ds, name)
    wanted = _wanted(layout, name, frames)
    check_size(layout, len(wanted), name)
    try:
        views, tone = views_of(ds, layout.n_frames), tone_of(ds)
        times, frame_ms = times_ms_of(ds, layout.n_frames), frame_ms_of(ds, layout.n_frames)
        spacing = spacing_of(ds)
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise DataError(
            f"{name} has damaged angles, times, distances or look-up tables; export it again"
        ) from None
    pixels = np.empty((len(wanted), *layout.hw), dtype=np.uint16)
    for position, frame in enumerate(frames_of(ds, name, wanted)):
        pixels[position] = frame
    return Cine(
        pixels=pixels,
        frames=wanted,
        n_frames=layout.n_frames,
        bits=layout.bits,
        photometric=_photometric(layout),
        window=tone.window,
        spacing=spacing,
        views=tuple(views[frame] for frame in wanted),
        frame_ms=frame_ms,
        tone=tone,
        times_ms=tuple(times[frame] for frame in wanted) if times else (),
        subtracted=_subtracted(ds, name, layout, tone, wanted, pixels) if subtract else None,
    )


def _prepared(
    stored: UInt16[np.ndarray, "h w"], tone: Tone, *, logarithmic: bool
) -> Float32[np.ndarray, "h w"]:
    values = tone.modality_values(stored.ravel().astype(np.float64)).reshape(stored.shape)
    return np.asarray(np.log(np.maximum(values, 1.0)) if logarithmic else values, dtype=np.float32)


def _subtracted(
    ds: FileDataset,
    name: str,
    layout: ImageLayout,
    tone: Tone,
    wanted: tuple[int, ...],
    pixels: UInt16[np.ndarray, "t h w"],
) -> Float32[np.ndarray, "t h w"] | None:
    """Each frame less its mask; nothing when the file names none."""
    if not subtractable_frames(ds, name):
        return None
    uses = mask_uses(ds, layout.n_frames)
    prepare = partial(_prepared, tone=tone, logarithmic=is_logarithmic(ds))
    chosen = [use_for(uses, frame) for frame in wanted]
    needed = sorted({frame for use in chosen if use for frame in use.masks})
    check_size(layout, len(wanted) * 3 + len(needed), name)
    stored = dict(zip(needed, frames_of(ds, name, needed), strict=True)) if needed else {}
    pictures = {use: mask_picture(use, stored, prepare) for use in set(chosen) if use}
    difference = np.empty(pixels.shape, dtype=np.float32)
    for position, use in enumerate(chosen):
        if use is None:
            raise DataError(
                f"{name}: frame {wanted[position]} has no mask to subtract; choose one of "
                f"{sorted(subtractable_frames(ds, name))[:5]} … or import without it"
            )
        difference[position] = prepare(pixels[position]) - pictures[use]
    return difference
