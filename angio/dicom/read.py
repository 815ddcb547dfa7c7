"""Reading cines: stored pixels with the geometry and timing the header gives.

Frames count from 0 here and everywhere above; only this folder knows that DICOM counts from 1.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt16
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError

from angio.dicom.decode import DAMAGE, check_syntax, decode_frame
from casebook.cases import PixelSpacing, View
from casebook.errors import DataError

Photometric = Literal["MONOCHROME1", "MONOCHROME2"]

SPACING_MM = (0.01, 5.0)
"""Spacings outside this range are entry errors, not geometry."""
MAX_SIDE_PX = 8192


@dataclass(frozen=True)
class Cine:
    """Some frames of one file, as stored."""

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
    """Time between frames."""

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in px."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    @property
    def rate_fps(self) -> float | None:
        """Frames per second."""
        return 1000.0 / self.frame_ms if self.frame_ms else None


def open_dataset(path: Path, name: str | None = None) -> FileDataset:
    """The whole data set of a file.

    Args:
        path: The file.
        name: What messages call it, where its name may say who the patient is.

    Raises:
        DataError: missing, not DICOM, truncated or damaged.
    """
    name = name or path.name
    try:
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always")
            ds = dcmread(path)
    except FileNotFoundError:
        raise DataError(f"{name} is not there; correct the path or restore it") from None
    except InvalidDicomError:
        raise DataError(f"{name} is not a DICOM file; give the original export") from None
    except DAMAGE as problem:
        raise DataError(
            f"{name} cannot be read ({type(problem).__name__}); export it again"
        ) from None
    if any("End of file" in str(remark.message) for remark in remarks):
        raise DataError(f"{name} is truncated; copy or export it again")
    return ds


def _number(ds: FileDataset, keyword: str) -> float | None:
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def _pair(ds: FileDataset, keyword: str) -> tuple[float, float] | None:
    try:
        values = [float(value) for value in ds.get(keyword) or ()]
    except (TypeError, ValueError):
        return None
    if len(values) != 2 or not all(SPACING_MM[0] <= value <= SPACING_MM[1] for value in values):
        return None
    return values[0], values[1]


def spacing_of(ds: FileDataset) -> PixelSpacing | None:
    """Millimetres per pixel with their source; nothing when the header does not say.

    Pixel Spacing counts as calibrated when it says how it was calibrated or differs from the
    detector's; else Imager Pixel Spacing is carried to the isocentre by SID / SOD or the stated
    magnification.

    Source: DICOM PS3.3 10.7.1.3, C.8.7.5.
    """
    imager, pixel = _pair(ds, "ImagerPixelSpacing"), _pair(ds, "PixelSpacing")
    kind = str(ds.get("PixelSpacingCalibrationType") or "").upper()
    if pixel and (kind == "FIDUCIAL" or (imager and not kind and pixel != imager)):
        return PixelSpacing(row_mm=pixel[0], col_mm=pixel[1], source="calibrated")
    if pixel and kind == "GEOMETRY":
        return PixelSpacing(row_mm=pixel[0], col_mm=pixel[1], source="isocentre")
    imager = imager or pixel
    if imager is None:
        return None
    detector = _number(ds, "DistanceSourceToDetector")
    patient = _number(ds, "DistanceSourceToPatient")
    magnified = _number(ds, "EstimatedRadiographicMagnificationFactor")
    if detector and patient and 0 < patient < detector:
        magnified = detector / patient
    if magnified and 1.0 < magnified < 4.0:
        return PixelSpacing(
            row_mm=imager[0] / magnified, col_mm=imager[1] / magnified, source="isocentre"
        )
    return PixelSpacing(row_mm=imager[0], col_mm=imager[1], source="detector")


def _angles(ds: FileDataset, keyword: str, n_frames: int) -> list[float] | None:
    """An angle for every frame: frame 1's, plus the increments of a moving positioner."""
    first = _number(ds, keyword)
    if first is None:
        return None
    steps = [0.0] * n_frames
    if str(ds.get("PositionerMotion") or "").upper() == "DYNAMIC":
        given = ds.get(f"{keyword}Increment")
        values = [float(v) for v in (given if np.ndim(given) else [given])] if given else []
        if len(values) == 1:
            steps = [0.0] + values * (n_frames - 1)
        elif len(values) == n_frames:
            steps = [0.0, *values[1:]]
    total = first + np.cumsum(steps)
    return [float((angle + 180.0) % 360.0 - 180.0) for angle in total]


def _views(ds: FileDataset, n_frames: int) -> list[View | None]:
    primary = _angles(ds, "PositionerPrimaryAngle", n_frames)
    secondary = _angles(ds, "PositionerSecondaryAngle", n_frames)
    if primary is None or secondary is None:
        return [None] * n_frames
    return [
        View(primary_deg=round(a, 3), secondary_deg=round(b, 3))
        for a, b in zip(primary, secondary, strict=True)
    ]


def _frame_ms(ds: FileDataset) -> float | None:
    single = _number(ds, "FrameTime")
    if single:
        return single
    vector = ds.get("FrameTimeVector")
    if vector is not None and np.ndim(vector) and len(vector) > 1:
        return float(np.median([float(value) for value in list(vector)[1:]]))
    rate = _number(ds, "CineRate") or _number(ds, "RecommendedDisplayFrameRate")
    return 1000.0 / rate if rate else None


def _window(ds: FileDataset) -> tuple[float, float] | None:
    def first(keyword: str) -> float | None:
        value = ds.get(keyword)
        if value is not None and np.ndim(value) and not isinstance(value, str):
            value = value[0] if len(value) else None
        return None if value in (None, "") else float(value)

    try:
        centre, width = first("WindowCenter"), first("WindowWidth")
    except (TypeError, ValueError):
        return None
    return (centre, width) if centre is not None and width is not None and width >= 1 else None


def _check_pixels(ds: FileDataset, name: str) -> Photometric:
    if "PixelData" not in ds:
        raise DataError(f"{name} has no pixel data; export the images, not only the header")
    photometric = str(ds.get("PhotometricInterpretation") or "")
    if int(ds.get("SamplesPerPixel") or 1) != 1 or photometric not in (
        "MONOCHROME1",
        "MONOCHROME2",
    ):
        raise DataError(
            f"{name} is {photometric or 'of unknown colour'}; expected MONOCHROME1 or 2"
        )
    if int(ds.get("PixelRepresentation") or 0) != 0:
        raise DataError(f"{name} stores signed values; expected unsigned, as angiograms are")
    bits, allocated = int(ds.get("BitsStored") or 0), int(ds.get("BitsAllocated") or 0)
    if allocated not in (8, 16) or not 1 <= bits <= allocated:
        raise DataError(f"{name} stores {bits} of {allocated} bits; expected 8 to 16 of 8 or 16")
    for side in ("Rows", "Columns"):
        if not 1 <= int(ds.get(side) or 0) <= MAX_SIDE_PX:
            raise DataError(f"{name} has {ds.get(side)} {side.lower()}; expected 1–{MAX_SIDE_PX}")
    return "MONOCHROME1" if photometric == "MONOCHROME1" else "MONOCHROME2"


def read_cine(path: Path, frames: Sequence[int] | None = None) -> Cine:
    """Frames of an angiogram.

    Args:
        path: A DICOM file of one channel.
        frames: Which frames, counted from 0; all when not given.

    Raises:
        DataError: missing, damaged, not grey, of a transfer syntax nobody here decodes, or without
            one of the frames asked for.
    """
    return cine_of(open_dataset(path), path.name, frames)


def cine_of(ds: FileDataset, name: str, frames: Sequence[int] | None = None) -> Cine:
    """Frames of a data set that is open already; `name` is used in messages.

    Raises:
        DataError: as `read_cine`.
    """
    if "TransferSyntaxUID" not in ds.file_meta:
        raise DataError(f"{name} does not name its transfer syntax; export it again")
    try:
        photometric = _check_pixels(ds, name)
        n_frames = int(ds.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise DataError(f"{name} has a damaged image header; export it again") from None
    wanted = tuple(range(n_frames)) if frames is None else tuple(frames)
    missing = [frame for frame in wanted if not 0 <= frame < n_frames]
    if missing or not wanted:
        raise DataError(
            f"{name} has frames 0 to {n_frames - 1}; frame {missing[0] if missing else 'none'} was "
            "asked for; correct frame_index"
        )
    try:
        check_syntax(ds.file_meta.TransferSyntaxUID)
        pixels = np.stack([decode_frame(ds, frame, n_frames) for frame in wanted])
        views = _views(ds, n_frames)
    except DataError as problem:
        raise DataError(f"{name}: {problem}") from None
    except (TypeError, ValueError):
        raise DataError(f"{name} has damaged positioner angles; export it again") from None
    return Cine(
        pixels=pixels,
        frames=wanted,
        n_frames=n_frames,
        bits=int(ds.BitsStored),
        photometric=photometric,
        window=_window(ds),
        spacing=spacing_of(ds),
        views=tuple(views[frame] for frame in wanted),
        frame_ms=_frame_ms(ds),
    )
