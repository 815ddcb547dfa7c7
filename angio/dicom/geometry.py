"""Where a run was seen from and how large its pixels are, from the header.

Frames count from 0 here. Knows no pixels.
"""

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from casebook.cases import PixelSpacing, View

SPACING_MM = (0.01, 5.0)
"""Spacings outside this range are entry errors, not geometry."""

_MM_PER_CM = 10.0
_CENTIMETRES = 3
_TWO_DIMENSIONAL = 1


def number_of(ds: Dataset, keyword: str) -> float | None:
    """A number of the header; nothing when it is absent.

    Raises:
        TypeError: it is no number.
        ValueError: likewise, or it is not finite.
    """
    value = ds.get(keyword)
    if value is None or value == "":
        return None
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{keyword} is not finite")
    return number


def numbers_of(ds: Dataset, keyword: str) -> list[float]:
    """All numbers of an element; none when it is absent.

    Raises:
        TypeError: one of them is no number.
        ValueError: likewise, or one of them is not finite.
    """
    value = ds.get(keyword)
    if value is None or value == "":
        return []
    found = [float(each) for each in (value if np.ndim(value) else [value])]
    if not np.isfinite(found).all():
        raise ValueError(f"{keyword} is not finite")
    return found


def _pair(ds: Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers_of(ds, keyword)
    if len(values) != 2 or not all(SPACING_MM[0] <= value <= SPACING_MM[1] for value in values):
        return None
    return values[0], values[1]


def spacing_of(ds: FileDataset) -> PixelSpacing | None:
    """Millimetres per pixel with their source; nothing when the header does not say.

    Pixel Spacing counts as calibrated when it says how it was calibrated or differs from the
    detector's; else Imager Pixel Spacing is carried to the isocentre by SID / SOD or the stated
    magnification. Ultrasound is calibrated by its regions.

    Raises:
        TypeError: a number it rests on is none; a source must not change because one is damaged.
        ValueError: likewise.

    Source: DICOM PS3.3 10.7.1.3, C.8.7.5, C.8.5.5.
    """
    if ds.get("SequenceOfUltrasoundRegions"):
        return _ultrasound_spacing(ds)
    imager, pixel = _pair(ds, "ImagerPixelSpacing"), _pair(ds, "PixelSpacing")
    kind = str(ds.get("PixelSpacingCalibrationType") or "").upper()
    if pixel and (kind == "FIDUCIAL" or (imager and not kind and pixel != imager)):
        return PixelSpacing(row_mm=pixel[0], col_mm=pixel[1], source="calibrated")
    if pixel and kind == "GEOMETRY":
        return PixelSpacing(row_mm=pixel[0], col_mm=pixel[1], source="isocentre")
    imager = imager or pixel
    if imager is None:
        return None
    detector = number_of(ds, "DistanceSourceToDetector")
    patient = number_of(ds, "DistanceSourceToPatient")
    magnified = number_of(ds, "EstimatedRadiographicMagnificationFactor")
    if detector and patient and 0 < patient < detector:
        magnified = detector / patient
    if magnified and 1.0 < magnified < 4.0:
        return PixelSpacing(
            row_mm=imager[0] / magnified, col_mm=imager[1] / magnified, source="isocentre"
        )
    return PixelSpacing(row_mm=imager[0], col_mm=imager[1], source="detector")


def _ultrasound_spacing(ds: FileDataset) -> PixelSpacing | None:
    """Spacing of the two-dimensional regions, if they have one and the same in centimetres."""
    found = set()
    for region in ds.SequenceOfUltrasoundRegions:
        if number_of(region, "RegionSpatialFormat") != _TWO_DIMENSIONAL:
            continue
        units = {number_of(region, f"PhysicalUnits{axis}Direction") for axis in "XY"}
        down, across = (number_of(region, f"PhysicalDelta{axis}") for axis in "YX")
        if units != {_CENTIMETRES} or not down or not across:
            return None
        found.add((abs(down) * _MM_PER_CM, abs(across) * _MM_PER_CM))
    if len(found) != 1:
        return None
    row_mm, col_mm = found.pop()
    if not all(SPACING_MM[0] <= side <= SPACING_MM[1] for side in (row_mm, col_mm)):
        return None
    return PixelSpacing(row_mm=row_mm, col_mm=col_mm, source="calibrated")


def _angles(ds: FileDataset, keyword: str, n_frames: int) -> list[float | None]:
    """An angle for every frame: frame 1's, plus the increments of a moving positioner.

    Source: DICOM PS3.3 C.8.7.5.1.
    """
    first = number_of(ds, keyword)
    if first is None:
        return [None] * n_frames
    if str(ds.get("PositionerMotion") or "").upper() != "DYNAMIC":
        return [_turned(first)] * n_frames
    given = numbers_of(ds, f"{keyword}Increment")
    if len(given) == 1:
        steps = [0.0] + given * (n_frames - 1)
    elif len(given) == n_frames:
        steps = [0.0, *given[1:]]
    else:  # it moves, and nobody says how: only where it began is known
        return [_turned(first), *[None] * (n_frames - 1)]
    return [_turned(float(angle)) for angle in first + np.cumsum(steps)]


def _turned(angle_deg: float) -> float:
    return float((angle_deg + 180.0) % 360.0 - 180.0)


def views_of(ds: FileDataset, n_frames: int) -> list[View | None]:
    """The view of every frame; nothing where the header does not say it.

    Raises:
        TypeError: an increment is no number.
        ValueError: likewise.
    """
    primary = _angles(ds, "PositionerPrimaryAngle", n_frames)
    secondary = _angles(ds, "PositionerSecondaryAngle", n_frames)
    return [
        None if a is None or b is None else View(primary_deg=round(a, 3), secondary_deg=round(b, 3))
        for a, b in zip(primary, secondary, strict=True)
    ]


def times_ms_of(ds: FileDataset, n_frames: int) -> tuple[float, ...]:
    """When each frame was taken, from the first one on; empty when the header does not say.

    The vector counts where it is named as what increments, or where there is no constant time.

    Raises:
        TypeError: a time is no number.
        ValueError: likewise.

    Source: DICOM PS3.3 C.7.6.5.1.
    """
    vector, single = numbers_of(ds, "FrameTimeVector"), number_of(ds, "FrameTime")
    named = str(ds.get("FrameIncrementPointer") or "").replace(" ", "") == "(0018,1065)"
    if vector and (named or not single):
        if len(vector) != n_frames or min(vector) < 0:
            return ()
        return tuple(float(value) for value in np.cumsum([0.0, *vector[1:]]))
    if not single or single < 0:
        rate = number_of(ds, "CineRate") or number_of(ds, "RecommendedDisplayFrameRate")
        single = 1000.0 / rate if rate and rate > 0 else None
    return tuple(single * frame for frame in range(n_frames)) if single else ()


def frame_ms_of(ds: FileDataset, n_frames: int) -> float | None:
    """The usual time between frames; nothing when the header does not say, or for one frame."""
    times = times_ms_of(ds, n_frames)
    if n_frames > 1:
        return float(np.median(np.diff(times))) if times else None
    return number_of(ds, "FrameTime")
