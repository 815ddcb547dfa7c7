"""The lab's contour JSON: lumen edges of one analysed segment, and what was measured on it.

Knows nothing of images.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from pydantic import BaseModel, ConfigDict, ValidationError
from skimage.draw import polygon2mask

from casebook.cases import PixelSpacing, View
from casebook.errors import DataError, MaskError

_ANGLE = re.compile(
    r"^\s*(RAO|LAO|CRA|CRAN|CRANIAL|CAU|CAUD|CAUDAL)?\s*([-+]?\d+(?:\.\d+)?)\s*°?\s*$"
)
_NEGATIVE = ("RAO", "CAU", "CAUD", "CAUDAL")


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
            MaskError: nothing lies between them, or they leave the image altogether.
        """
        corners = np.concatenate([self.left_xy, self.right_xy[::-1]])
        inside = np.asarray(polygon2mask(hw, corners[:, ::-1]), dtype=bool)
        if not inside.any():
            raise MaskError(
                f"the contours enclose no pixel of the {hw[1]}×{hw[0]} px image; they belong to "
                "another image"
            )
        return inside


class _File(BaseModel):
    """The file as written; fields nobody needs are left alone."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    left_edge: list[tuple[float, float]]
    right_edge: list[tuple[float, float]]
    frame_num: int | None = None
    measurements: dict[str, Any] = {}
    calibration: dict[str, Any] = {}
    view_angles: dict[str, Any] = {}


def angle_deg(value: object) -> float | None:
    """An angle as a number of degrees; `RAO 30` and `CAU 20` are negative (DICOM PS3.3 C.8.7.5)."""
    if isinstance(value, int | float):
        return float(value) if np.isfinite(value) else None
    found = _ANGLE.match(str(value or "").upper())
    if not found:
        return None
    number = float(found[2])
    return -abs(number) if found[1] in _NEGATIVE else number


def _spacing(calibration: dict[str, Any]) -> PixelSpacing | None:
    scale = calibration.get("scale_factor")
    catheter = calibration.get("catheter_diameter_mm")
    if not isinstance(scale, int | float) or not 0.2 <= scale <= 100 or not catheter:
        return None
    return PixelSpacing(row_mm=1 / scale, col_mm=1 / scale, source="calibrated")


def read_contours(path: Path) -> Contours:
    """Read a contour file.

    Raises:
        DataError: missing, not JSON, or without two usable edges.
    """
    try:
        payload = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError("the contour file is not there; correct the path") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"the contour file is not JSON ({problem}); export again") from None
    try:
        found = _File.model_validate(payload)
    except ValidationError as problem:
        fields = ", ".join(
            sorted({".".join(str(part) for part in e["loc"][:1]) for e in problem.errors()})
        )
        raise DataError(f"the contour file: {fields} unusable; export again") from None
    left = np.array(found.left_edge, dtype=np.float64).reshape(-1, 2)
    right = np.array(found.right_edge, dtype=np.float64).reshape(-1, 2)
    if len(left) < 2 or len(right) < 2:
        raise DataError(
            f"the contour file has edges of {len(left)} and {len(right)} points; expected at "
            "least 2 each"
        )
    primary = angle_deg(found.view_angles.get("primary_angle"))
    secondary = angle_deg(found.view_angles.get("secondary_angle"))
    view = None
    if primary is not None and secondary is not None and max(abs(primary), abs(secondary)) <= 180:
        view = View(primary_deg=primary, secondary_deg=secondary)
    measurements = {
        name: float(value)
        for name, value in found.measurements.items()
        if isinstance(value, int | float) and np.isfinite(value)
    }
    return Contours(left, right, found.frame_num, measurements, _spacing(found.calibration), view)
