"""Quantitative coronary analysis: minimal and reference diameter, stenosis and lesion length.

Millimetres are given only with a spacing, whose source comes along; else px. Knows nothing of files
or models.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float64, UInt8, UInt16
from pydantic import Field
from scipy import ndimage

from angio.bridging import joined
from angio.lumen import lumen_px, straight
from angio.vessels import Centreline, course, solid
from casebook import masks
from casebook.cases import PixelSpacing
from casebook.documents import Document
from casebook.errors import QcaError

HEALTHY_MIN_PX = 5.0
"""Healthy vessel needed on either side of the narrowing."""
HEALTHY_SHARE = 0.93
"""A lumen this wide, of its reference, counts as healthy."""
HEALTHY_END_SHARE = 0.88
"""Likewise at the ends, where only their presence counts."""
END_SHARE = 0.3
"""Part of the vessel at each end that must show healthy lumen for the reference."""
LESION_SHARE = 0.95
"""A narrowing reaches to where the lumen is this wide again."""
PLACE_REACH_PX = 5.0
"""Parabolas over so much vessel on each side smooth the widths, to find the narrowest place."""
MARGIN_PX = 40
"""Picture looked at around a mask."""
FOLD_MIN_PX = 3
"""A hole of at least so many pixels in a mask is a fold of its outline, a smaller one a flaw."""
THROAT_SHARE = 0.7
"""The throat, whose widths give the minimum: this share of the way to half the depth."""
THROAT_REACH_PX = (4.0, 20.0)
"""Least and most vessel on each side that makes the throat."""


class Lesion(Document):
    """The narrowest place of a vessel and what it is compared with."""

    mld_px: float = Field(ge=0)
    """Minimal lumen diameter."""
    rvd_px: float = Field(gt=0)
    """Reference diameter there."""
    length_px: float = Field(ge=0)
    """Of the narrowing, along the centreline."""
    stenosis_pct: float = Field(ge=0, le=100)
    area_stenosis_pct: float | None = Field(default=None, ge=0, le=100)
    """Of the cross-section, taken as a circle; results written before it was measured have none."""
    mld_xy: tuple[float, float]
    start_xy: tuple[float, float]
    end_xy: tuple[float, float]
    spacing: PixelSpacing | None = None
    mld_mm: float | None = None
    rvd_mm: float | None = None
    length_mm: float | None = None

    @property
    def mld_text(self) -> str:
        """The minimal diameter with its unit: `1.35 mm (isocentre)` or `6.1 px`."""
        if self.mld_mm is None or self.spacing is None:
            return f"{self.mld_px:.1f} px"
        return f"{self.mld_mm:.2f} mm ({self.spacing.source})"


@dataclass(frozen=True)
class Profile:
    """Lumen diameters along a vessel, and what they would be without a narrowing."""

    line: Centreline
    along_px: Float64[np.ndarray, " n"]
    diameter_px: Float64[np.ndarray, " n"]
    reference_px: Float64[np.ndarray, " n"]
    folds_xy: Float64[np.ndarray, "k 2"] = field(default_factory=lambda: np.empty((0, 2)))
    """Pixels that the mask's outline encloses and leaves out: there the vessel lies over itself."""


def stenosis_pct(mld: float, rvd: float) -> float:
    """Diameter stenosis, in percent of the reference diameter.

    Both in the same unit. Source: Reiber et al., Circulation 71 (1985) 280–288.

    Raises:
        QcaError: the reference is not a positive length.
    """
    if not rvd > 0 or not mld >= 0:
        raise QcaError(f"MLD {mld} and RVD {rvd}; expected lengths, the reference above 0")
    return float(min(max(100.0 * (1.0 - mld / rvd), 0.0), 100.0))


def area_stenosis_pct(mld: float, rvd: float) -> float:
    """Stenosis of the lumen's area, in percent of the reference area, both taken as circles.

    One view cannot show an oval lumen: for such a lesion this is an assumption, not a measurement.
    Both in the same unit. Source: Reiber et al., Circulation 71 (1985) 280–288.

    Raises:
        QcaError: the reference is not a positive length.
    """
    return 100.0 * (1.0 - (1.0 - stenosis_pct(mld, rvd) / 100.0) ** 2)


def reference_px(
    along_px: Float64[np.ndarray, " n"], diameter_px: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """The lumen without its narrowing: a straight taper through the healthy parts.

    Begun with a line between both ends and repeated on what is at least as wide as `HEALTHY_SHARE`
    of the last fit. A fit that leaves one end without healthy vessel would follow the other end's
    slope to nowhere; then the first line stays.
    """
    length = float(along_px[-1])
    ends = along_px <= END_SHARE * length, along_px >= (1 - END_SHARE) * length
    (x1, d1), (x2, d2) = (
        (float(along_px[end].mean()), float(np.percentile(diameter_px[end], 60))) for end in ends
    )
    first = line = d1 + (d2 - d1) * (along_px - x1) / max(x2 - x1, 1e-9)
    for _ in range(12):
        healthy = (diameter_px > HEALTHY_SHARE * line) & (diameter_px < line / HEALTHY_SHARE**2)
        if healthy.sum() < 8 or not all((healthy & end).any() for end in ends):
            line = first
            break
        slope, start = straight(along_px, diameter_px, healthy.astype(np.float64))
        fitted = start + slope * along_px
        if np.abs(fitted - line).max() < 1e-3:
            break
        line = fitted
    return np.asarray(np.maximum(line, 0.5))


def profile(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"] | None,
    bitmap: Bool[np.ndarray, "h w"],
    *,
    by_model: bool = False,
) -> Profile:
    """Diameters along the vessel of a mask.

    Args:
        pixels: The frame, vessels dark; without one the mask's own width is taken.
        bitmap: The vessel; pieces of it that lie end to end are joined.
        by_model: Whether a model drew it.

    Raises:
        QcaError: the vessel is too short, or the frame shows none there.
    """
    if not bitmap.any():
        raise QcaError("the mask is empty; there is no vessel to measure")
    box = [
        slice(max(span.start - MARGIN_PX, 0), span.stop + MARGIN_PX)
        for span in ndimage.find_objects(bitmap.astype(np.uint8))[0]
    ]
    part = tuple(box)
    found = _profile(None if pixels is None else pixels[part], bitmap[part], by_model=by_model)
    corner_xy = np.array([box[1].start, box[0].start], dtype=np.float64)
    return replace(
        found,
        line=Centreline(found.line.points_xy + corner_xy, found.line.normals_xy),
        folds_xy=found.folds_xy + corner_xy,
    )


def _profile(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"] | None,
    bitmap: Bool[np.ndarray, "h w"],
    *,
    by_model: bool,
) -> Profile:
    bitmap = joined(pixels, bitmap).bitmap
    whole, rough = course(bitmap)
    margin_px = float(np.median(rough)) / 2
    inner = (whole.along_px >= margin_px) & (whole.along_px <= whole.length_px - margin_px)
    if inner.sum() < 16:
        raise QcaError(
            f"the vessel is {whole.length_px:.0f} px long and {2 * margin_px:.0f} px wide; "
            "expected a length of several widths"
        )
    line = Centreline(whole.points_xy[inner], whole.normals_xy[inner])
    widths = (
        rough[inner] if pixels is None else lumen_px(pixels, line, rough[inner], by_model=by_model)
    )
    along = line.along_px
    return Profile(line, along, widths, reference_px(along, widths), _folds_xy(bitmap))


def _step_px(found: Profile) -> float:
    return float(found.along_px[-1]) / max(len(found.along_px) - 1, 1)


def smooth(found: Profile) -> Float64[np.ndarray, " n"]:
    """Widths smoothed by local parabolas, which leave the depth of a narrowing as it is.

    Source: Savitzky and Golay, Analytical Chemistry 36 (1964) 1627–1639.
    """
    reach = min(round(PLACE_REACH_PX / _step_px(found)), (len(found.along_px) - 1) // 2)
    widths, window = found.diameter_px, 2 * reach + 1
    powers = np.vander(np.arange(-reach, reach + 1, dtype=np.float64), 3)
    fitted = powers @ np.linalg.pinv(powers)  # widths of a window to its parabola's
    widths_px = np.convolve(widths, fitted[reach][::-1], mode="same")
    widths_px[:reach] = fitted[:reach] @ widths[:window]  # the ends, by the first and last parabola
    widths_px[len(widths) - reach :] = fitted[reach + 1 :] @ widths[len(widths) - window :]
    return np.asarray(widths_px)


def _throat_px(found: Profile, share: Float64[np.ndarray, " n"], at: int) -> float:
    """The least width of the parabola through the throat's widths.

    The least of noisy widths is too small and the least of averaged ones too large.
    """
    open_again = share >= (1 + share[at]) / 2
    before, after = np.flatnonzero(open_again[:at]), np.flatnonzero(open_again[at:])
    sides = [at - int(before[-1])] if len(before) else []
    sides += [int(after[0])] if len(after) else []
    least, most = (max(round(reach / _step_px(found)), 2) for reach in THROAT_REACH_PX)
    reach = int(np.clip(round(THROAT_SHARE * min(sides, default=least)), least, most))
    near = np.arange(max(at - reach, 0), min(at + reach, len(share) - 1) + 1)
    bend, slope, level = np.polyfit(near - at, found.diameter_px[near], 2)
    offset = np.clip(-slope / (2 * bend), -reach / 2, reach / 2) if bend > 0 else 0.0
    return max(float(bend * offset**2 + slope * offset + level), 0.0)


def _folds_xy(bitmap: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, "k 2"]:
    x1, y1, x2, y2 = masks.box_of(bitmap)
    part = bitmap[y1 : y2 + 1, x1 : x2 + 1]
    holes = solid(part) & ~part
    if not holes.any():
        return np.empty((0, 2))
    numbered, _ = ndimage.label(holes)
    large = np.bincount(numbered.ravel()) >= FOLD_MIN_PX
    large[0] = False
    return np.argwhere(large[numbered])[:, ::-1] + np.array([x1, y1], dtype=np.float64)


def _refuse_folded(found: Profile, at: int) -> None:
    """Refuse a narrowest place at which the vessel is seen end on."""
    away_px = np.linalg.norm(found.folds_xy - found.line.points_xy[at], axis=1)
    if len(away_px) and away_px.min() < found.reference_px[at] / 2:
        raise QcaError(
            f"the mask has a hole {away_px.min():.0f} px from the narrowest place, as outlines "
            "have that fold over themselves where a vessel is seen end on; expected a narrowing "
            "seen from the side; measure another view, or fill the hole if it is a flaw"
        )


def _healthy_from(share: Float64[np.ndarray, " n"], step_px: float, side: str) -> int:
    """Where the narrowing ends, in samples from the narrowest place outwards.

    Where nothing reaches `LESION_SHARE`, because the reference runs a little high on that side, the
    narrowing ends at `HEALTHY_END_SHARE`.

    Raises:
        QcaError: fewer than `HEALTHY_MIN_PX` of healthy vessel follow.
    """
    for wanted in (LESION_SHARE, HEALTHY_END_SHARE):
        wide = np.flatnonzero(share >= wanted)
        if not len(wide):
            continue
        healthy = share[wide[0] :] >= HEALTHY_END_SHARE
        if float(healthy.sum()) * step_px >= HEALTHY_MIN_PX:
            return int(wide[0])
    raise QcaError(
        f"less than {HEALTHY_MIN_PX:.0f} px of healthy vessel at the {side} end; draw the segment "
        "longer"
    )


def find_lesion(found: Profile, spacing: PixelSpacing | None = None) -> Lesion:
    """The narrowest place, relative to the reference, between healthy ends.

    Raises:
        QcaError: fewer than `HEALTHY_MIN_PX` of healthy vessel remain on either side, or the
            vessel folds over itself at the narrowest place.
    """
    step = _step_px(found)
    least = int(np.ceil(HEALTHY_MIN_PX / step))
    if len(found.along_px) <= 2 * least + 1:
        raise QcaError(
            f"the vessel is {found.along_px[-1]:.0f} px long; expected more than "
            f"{2 * HEALTHY_MIN_PX:.0f} px, to see healthy vessel on both sides"
        )
    share = smooth(found) / found.reference_px
    at = least + int(np.argmin(share[least:-least]))
    _refuse_folded(found, at)
    start = at - _healthy_from(share[at::-1], step, "first")
    end = at + _healthy_from(share[at:], step, "second")
    mld, rvd = _throat_px(found, share, at), float(found.reference_px[at])
    length = float(found.along_px[end] - found.along_px[start])
    scale = spacing.mean_mm if spacing else None
    return Lesion(
        mld_px=mld,
        rvd_px=rvd,
        length_px=length,
        stenosis_pct=stenosis_pct(mld, rvd),
        area_stenosis_pct=area_stenosis_pct(mld, rvd),
        mld_xy=_place(found, at),
        start_xy=_place(found, start),
        end_xy=_place(found, end),
        spacing=spacing,
        mld_mm=mld * scale if scale else None,
        rvd_mm=rvd * scale if scale else None,
        length_mm=length * scale if scale else None,
    )


def _place(found: Profile, at: int) -> tuple[float, float]:
    x, y = found.line.points_xy[at]
    return float(x), float(y)


def measure(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"] | None,
    bitmap: Bool[np.ndarray, "h w"],
    spacing: PixelSpacing | None = None,
    *,
    by_model: bool = False,
) -> Lesion:
    """The lesion of the vessel in a mask.

    Args:
        pixels: The frame, vessels dark: stored bits (16) are best, rendered (8) will do.
        bitmap: The vessel, healthy ends included.
        spacing: For millimetres.
        by_model: Whether a model drew it; the frame may then show a lesion that it does not.

    Raises:
        QcaError: too short, no healthy ends, folded over itself, or no vessel there.
    """
    return find_lesion(profile(pixels, bitmap, by_model=by_model), spacing)
