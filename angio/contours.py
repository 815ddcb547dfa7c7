"""The lab's contour JSON: lumen edges of one analysed segment, and what was measured on it.

Knows nothing of images.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from skimage.draw import polygon2mask

from angio.json_files import read_json
from casebook.cases import PixelSpacing, View
from casebook.errors import DataError, MaskError

AngleSign = Literal["lao-positive", "rao-positive"]
Axis = Literal["primary", "secondary"]

_ANGLE = re.compile(r"^\s*([A-Z]*)\s*([-+]?\d{1,4}(?:\.\d{1,9})?)\s*°?\s*$")
_SIDES: dict[Axis, tuple[frozenset[str], frozenset[str]]] = {
    "primary": (frozenset({"LAO"}), frozenset({"RAO"})),
    "secondary": (frozenset({"CRA", "CRAN", "CRANIAL"}), frozenset({"CAU", "CAUD", "CAUDAL"})),
}
"""Words for the positive and the negative side. Source: DICOM PS3.3 C.8.7.5.1.2."""
MAX_BYTES = 8 * 1024**2
"""Largest contour file; true ones have some 100 kB."""
MAX_POINTS = 100_000
OUTSIDE_PX = 2.0
"""How far an edge may leave the image before it is another image's."""


@dataclass(frozen=True)
class Contours:
    """Edges of the lumen in px, with the measurements that came along."""

    left_xy: Float64[np.ndarray, "n 2"]
    right_xy: Float64[np.ndarray, "m 2"]
    frame: int | None
    """Counted from 0, when the file says."""
    measurements: dict[str, float]
    spacing: PixelSpacing | None
    """From the catheter, when the file says how it was calibrated."""
    view: View | None

    def bitmap(self, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
        """The pixels whose centre lies between both edges.

        Raises:
            MaskError: nothing lies between them, or they leave the image.
        """
        corners = np.concatenate([self.left_xy, self.right_xy[::-1]])
        limit = np.array([hw[1] - 1, hw[0] - 1]) + OUTSIDE_PX
        if (corners < -OUTSIDE_PX).any() or (corners > limit).any():
            x, y = corners.max(axis=0)
            raise MaskError(
                f"the contours reach x {x:.0f}, y {y:.0f}, outside the {hw[1]}×{hw[0]} px image; "
                "they belong to another image; contours are never resized"
            )
        inside = np.asarray(polygon2mask(hw, corners[:, ::-1]), dtype=bool)
        if not inside.any():
            raise MaskError(
                f"the contours enclose no pixel of the {hw[1]}×{hw[0]} px image; they belong to "
                "another image"
            )
        return inside


_Px = Annotated[float, Field(strict=True, ge=-1e6, le=1e6)]


class _File(BaseModel):
    """The file as written; fields nobody needs are left alone."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    left_edge: list[tuple[_Px, _Px]]
    right_edge: list[tuple[_Px, _Px]]
    frame_num: Annotated[int, Field(strict=True, ge=0, le=99_999)] | None = None
    measurements: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    view_angles: dict[str, Any] = {}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def angle_deg(
    value: object, axis: Axis = "primary", sign: AngleSign = "lao-positive"
) -> float | None:
    """An angle as a number of degrees; `RAO 30` and `CAU 20` are negative (DICOM PS3.3 C.8.7.5).

    Nothing for what is no angle: other words, a word of the other axis, a word with a minus.

    Args:
        value: A number, or text with or without the side in words.
        axis: Primary (LAO, RAO) or secondary (cranial, caudal).
        sign: What a positive primary number without words means.
    """
    if isinstance(value, int | float):
        word, number = "", float(value) if _is_number(value) else float("nan")
    else:
        found = _ANGLE.match(str(value or "").upper())
        if not found:
            return None
        word, number = found[1], float(found[2])
    positive, negative = _SIDES[axis]
    if not abs(number) <= 180 or (word and (number < 0 or word not in positive | negative)):
        return None
    if not word:
        return -number if axis == "primary" and sign == "rao-positive" else number
    return -number if word in negative else number


def _spacing(calibration: dict[str, Any]) -> PixelSpacing | None:
    scale = calibration.get("scale_factor")
    catheter = calibration.get("catheter_diameter_mm")
    if not _is_number(scale) or not _is_number(catheter):
        return None
    if not 0.2 <= float(scale or 0) <= 100 or not 0.5 <= float(catheter or 0) <= 5:
        return None
    scale = float(scale or 0)
    return PixelSpacing(row_mm=1 / scale, col_mm=1 / scale, source="calibrated")


def read_contours(path: Path) -> Contours:
    """Read a contour file.

    Its angles follow DICOM's signs.

    Raises:
        DataError: missing, not JSON, without two usable edges, or with edges that run in opposite
            directions: the polygon between them would cross itself.
    """
    payload = read_json(path, "the contour file", most=MAX_BYTES)
    try:
        found = _File.model_validate(payload)
    except ValidationError as problem:
        fields = ", ".join(
            sorted({".".join(str(part) for part in e["loc"][:1]) for e in problem.errors()})
        )
        raise DataError(f"the contour file: {fields or 'it'} unusable; export again") from None
    left = np.array(found.left_edge, dtype=np.float64).reshape(-1, 2)
    right = np.array(found.right_edge, dtype=np.float64).reshape(-1, 2)
    if not all(2 <= len(edge) <= MAX_POINTS for edge in (left, right)):
        raise DataError(
            f"the contour file has edges of {len(left)} and {len(right)} points; expected at "
            f"least 2 each and at most {MAX_POINTS}; export again"
        )
    if _crossed(left, right):
        raise DataError(
            "the contour file has edges that run in opposite directions; expected both from the "
            "same end; export again"
        )
    measurements = {
        name: float(value) for name, value in found.measurements.items() if _is_number(value)
    }
    view = _view(found.view_angles)
    return Contours(left, right, found.frame_num, measurements, _spacing(found.calibration), view)


def _view(angles: dict[str, Any]) -> View | None:
    """The angles of the file; nothing when one is missing.

    Raises:
        DataError: one is there and is no angle.
    """
    given = angles.get("primary_angle"), angles.get("secondary_angle")
    if any(angle is None or angle == "" for angle in given):
        return None
    primary = angle_deg(given[0], "primary")
    secondary = angle_deg(given[1], "secondary")
    if primary is None or secondary is None:
        raise DataError(
            "the contour file: view_angles unusable; expected degrees or words such as 'RAO 30'; "
            "export again"
        )
    return View(primary_deg=primary, secondary_deg=secondary)


def _crossed(left: Float64[np.ndarray, "n 2"], right: Float64[np.ndarray, "m 2"]) -> bool:
    """Whether the first point of one edge lies opposite the last of the other."""
    along = np.hypot(*(left[0] - right[0])) + np.hypot(*(left[-1] - right[-1]))
    across = np.hypot(*(left[0] - right[-1])) + np.hypot(*(left[-1] - right[0]))
    return bool(along > 2 * across)
