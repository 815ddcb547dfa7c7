"""What a reader leaves of a phantom case: contours with measurements, a rough box, names.

Knows nothing of DICOM or of where files lie.
"""

import json

import numpy as np
from jaxtyping import Float64

from angio.phantoms.scene import Outline, PhantomView
from angio.phantoms.tree import Lesion
from angio.phantoms.truth import LesionTruth

SEGMENT_NAMES = {
    1: "PROX RCA", 2: "MID RCA", 3: "DIST RCA", 4: "PDA", 12: "PROX LAD", 13: "MID LAD",
    14: "DIST LAD", 15: "D1", 16: "D2", 18: "PROX LCX", 19: "DIST LCX", 20: "OM1", 21: "OM2",
    28: "RAMUS",
}  # fmt: skip
_VESSELS = {4: "PDA", 15: "D1", 16: "D2", 20: "OM1", 21: "OM2", 28: "RAMUS"}


def _rounded(points_xy: Float64[np.ndarray, "n 2"]) -> list[list[float]]:
    rows: list[list[float]] = np.round(points_xy, 3).tolist()
    return rows


def lesion_truth(lesion: Lesion, seen: Outline) -> LesionTruth:
    """What is true of a lesion, in the vessel and on one frame."""
    at = [
        int(np.argmin(np.abs(seen.along_mm - place)))
        for place in (lesion.mld_at_mm, lesion.start_mm, lesion.end_mm)
    ]
    scale = float(seen.px_per_mm[at[0]])
    mld_xy, start_xy, end_xy = (
        (float(seen.centre_xy[place, 0]), float(seen.centre_xy[place, 1])) for place in at
    )
    return LesionTruth(
        mld_mm=lesion.mld_mm,
        rvd_mm=lesion.rvd_mm,
        stenosis_pct=lesion.stenosis_pct,
        lesion_length_mm=lesion.end_mm - lesion.start_mm,
        mld_px=lesion.mld_mm * scale,
        rvd_px=lesion.rvd_mm * scale,
        px_per_mm=scale,
        mld_xy=mld_xy,
        start_xy=start_xy,
        end_xy=end_xy,
    )


def contours_json(view: PhantomView, lesion: Lesion, seen: Outline) -> bytes:
    """The lab's contour JSON, measured at the isocentre's scale as a reader would."""
    gantry, truth = view.scene.gantry, lesion_truth(lesion, seen)
    spacing = gantry.isocentre_spacing_mm
    shown = np.concatenate(
        [[0.0], np.cumsum(np.linalg.norm(np.diff(seen.centre_xy, axis=0), axis=1))]
    )
    ends = np.linalg.norm(seen.ideal_left_xy - seen.ideal_right_xy, axis=1) * spacing
    places = np.interp((lesion.start_mm, lesion.end_mm), seen.along_mm, shown)
    payload = {
        "segment_name": SEGMENT_NAMES[lesion.cass],
        "frame_num": seen.frame,
        "centerline": _rounded(seen.centre_xy),
        "left_edge": _rounded(seen.left_xy),
        "right_edge": _rounded(seen.right_xy),
        "ideal_left_edge": _rounded(seen.ideal_left_xy),
        "ideal_right_edge": _rounded(seen.ideal_right_xy),
        "measurements": {
            "MLD_mm": round(truth.mld_px * spacing, 3),
            "interpolated_RVD_mm": round(truth.rvd_px * spacing, 3),
            "diameter_stenosis_pct": round(truth.stenosis_pct, 1),
            "area_stenosis_pct": round(100 * (1 - (lesion.mld_mm / lesion.rvd_mm) ** 2), 1),
            "lesion_length_mm": round(float(places[1] - places[0]) * spacing, 2),
            "segment_length_mm": round(float(shown[-1]) * spacing, 2),
            "proximal_normal_diameter_mm": round(float(ends[0]), 3),
            "distal_normal_diameter_mm": round(float(ends[-1]), 3),
            "MLD_x_coord": round(truth.mld_xy[0], 2),
            "MLD_y_coord": round(truth.mld_xy[1], 2),
            "MLD_centerline_index": int(np.argmin(np.abs(seen.along_mm - lesion.mld_at_mm))),
            "lesion_start_x_coord": round(truth.start_xy[0], 2),
            "lesion_start_y_coord": round(truth.start_xy[1], 2),
            "lesion_end_x_coord": round(truth.end_xy[0], 2),
            "lesion_end_y_coord": round(truth.end_xy[1], 2),
        },
        "calibration": {
            "scale_factor": round(1 / spacing, 5),
            "catheter_diameter_mm": round(view.scene.catheter_mm, 3),
            "imager_pixel_spacing_mm": gantry.imager_spacing_mm,
        },
        "view_angles": {
            "primary_angle": gantry.primary_deg,
            "secondary_angle": gantry.secondary_deg,
        },
    }
    return (json.dumps(payload) + "\n").encode()


def rough_box(
    rng: np.random.Generator, box: tuple[int, int, int, int], hw: tuple[int, int]
) -> tuple[int, int, int, int]:
    """A reader's quick rectangle: each side off by up to 15 % of the box, mostly outwards."""
    x1, y1, x2, y2 = box
    slip = rng.uniform(0, 0.15, 4) * np.where(rng.random(4) < 0.75, 1, -1)
    slip *= np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1]) + 1
    height, width = hw
    return (
        int(np.clip(x1 - slip[0], 0, width - 1)),
        int(np.clip(y1 - slip[1], 0, height - 1)),
        int(np.clip(x2 + slip[2], 0, width - 1)),
        int(np.clip(y2 + slip[3], 0, height - 1)),
    )


def vessel_name(lesion: Lesion) -> str:
    """The vessel as the lab names it."""
    if lesion.cass in _VESSELS:
        return _VESSELS[lesion.cass]
    return "RCA" if lesion.cass < 4 else "LAD" if lesion.cass < 15 else "LCX"
