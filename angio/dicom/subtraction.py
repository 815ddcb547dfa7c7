"""Mask subtraction as a header asks for it: which earlier frames are taken away from which.

Frames count from 0 here. Knows no rendering.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt16
from pydicom.dataset import Dataset, FileDataset
from scipy import ndimage

from angio.dicom.geometry import numbers_of
from casebook.errors import DataError

MAX_MASK_FRAMES = 64


@dataclass(frozen=True)
class MaskUse:
    """One mask and the frames it is taken away from."""

    masks: tuple[int, ...]
    """Frames whose mean is the mask."""
    frames: frozenset[int]
    """Frames it applies to."""
    shift_px: tuple[float, float]
    """How far the mask is moved first, down and right."""


def _frames(ds: Dataset, keyword: str, n_frames: int) -> list[int]:
    found = [int(value) - 1 for value in numbers_of(ds, keyword)]
    wrong = [number for number in found if not 0 <= number < n_frames]
    if wrong:
        raise DataError(
            f"mask subtraction names frame {wrong[0]} of 0 to {n_frames - 1}; import without it"
        )
    return found


def _use(item: Dataset, n_frames: int) -> MaskUse | None:
    operation = str(item.get("MaskOperation") or "").upper()
    if operation == "NONE":
        return None
    averaged = numbers_of(item, "ContrastFrameAveraging")
    if operation != "AVG_SUB" or (averaged and averaged[0] > 1):
        kind = operation or "without a name" if operation != "AVG_SUB" else "of averaged contrast"
        raise DataError(
            f"mask subtraction {kind} is not known here; expected AVG_SUB; import without it"
        )
    masks = _frames(item, "MaskFrameNumbers", n_frames)
    if not 1 <= len(masks) <= MAX_MASK_FRAMES:
        raise DataError(
            f"mask subtraction has {len(masks)} mask frames; expected 1–{MAX_MASK_FRAMES}; "
            "import without it"
        )
    ranges = _frames(item, "ApplicableFrameRange", n_frames)
    if len(ranges) % 2:
        raise DataError("mask subtraction has half a range of frames; import without it")
    pairs = zip(ranges[::2], ranges[1::2], strict=True)
    applies = {frame for first, last in pairs for frame in range(first, last + 1)}
    shift = numbers_of(item, "MaskSubPixelShift") or [0.0, 0.0]
    if len(shift) != 2:
        raise DataError("mask subtraction has a shift of one axis; import without it")
    return MaskUse(
        tuple(masks), frozenset(applies if ranges else range(n_frames)), (shift[0], shift[1])
    )


def mask_uses(ds: FileDataset, n_frames: int) -> tuple[MaskUse, ...]:
    """What the header asks to be subtracted; nothing when it asks for nothing.

    Raises:
        DataError: it asks for what no reader here does.

    Source: DICOM PS3.3 C.7.6.10.
    """
    try:
        found = [_use(item, n_frames) for item in ds.get("MaskSubtractionSequence") or ()]
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise DataError("mask subtraction is damaged in the header; import without it") from None
    return tuple(use for use in found if use is not None)


def use_for(uses: Sequence[MaskUse], frame: int) -> MaskUse | None:
    """The mask that applies to a frame: the last one that names it; nothing when none does."""
    return next((use for use in reversed(uses) if frame in use.frames), None)


def is_logarithmic(ds: FileDataset) -> bool:
    """Whether pixels must be made logarithmic before they are subtracted.

    Source: DICOM PS3.3 C.8.7.1.1.2: LIN is proportional to the intensity of the beam.
    """
    return str(ds.get("PixelIntensityRelationship") or "").upper() == "LIN"


def mask_picture(
    use: MaskUse,
    stored: Mapping[int, UInt16[np.ndarray, "h w"]],
    prepare: Callable[[UInt16[np.ndarray, "h w"]], Float32[np.ndarray, "h w"]],
) -> Float32[np.ndarray, "h w"]:
    """The mean of the mask frames, made ready for subtraction and moved.

    Args:
        use: What to average.
        stored: The frames.
        prepare: Logarithm or Modality LUT, the same as for the frame it is taken from.
    """
    mean = np.mean([prepare(stored[frame]) for frame in use.masks], axis=0, dtype=np.float32)
    if any(use.shift_px):
        mean = np.asarray(ndimage.shift(mean, use.shift_px, order=1, mode="nearest"))
    return np.asarray(mean, dtype=np.float32)
