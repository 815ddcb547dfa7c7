"""Coronary trees in three dimensions: where each vessel runs, how wide it is, where it narrows.

Vessels lie on an ellipsoidal heart in the patient's own axes (x left, y posterior, z head, in mm,
the heart's centre at the origin). Knows nothing of X-rays, views or files.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

Side = Literal["RCA", "LCA"]

STEP_MM = 0.4
"""Distance between neighbouring centreline points."""

REFERENCE_MIN_MM = 1.7
"""Thinnest vessel that is analysed."""

NO_CASS = 0
"""Marks points of vessels that belong to the tree but to none of the CASS segments in use."""


@dataclass(frozen=True)
class Lesion:
    """A narrowing of one vessel, with the stretch of vessel that is analysed around it."""

    vessel: str
    start_mm: float
    """Where the narrowing begins, along the vessel's centreline."""
    end_mm: float
    segment_start_mm: float
    """Where the analysed stretch begins: healthy vessel before the narrowing."""
    segment_end_mm: float
    mld_mm: float
    """Minimal lumen diameter."""
    mld_at_mm: float
    rvd_mm: float
    """Reference diameter at the minimum, interpolated between both ends of the narrowing."""
    cass: int

    @property
    def stenosis_pct(self) -> float:
        """Diameter stenosis, in percent of the reference diameter."""
        return 100.0 * (1.0 - self.mld_mm / self.rvd_mm)


@dataclass(frozen=True)
class Vessel:
    """One unbranched centreline with its lumen."""

    name: str
    points_mm: Float64[np.ndarray, "n 3"]
    diameter_mm: Float64[np.ndarray, " n"]
    cass: Int64[np.ndarray, " n"]
    path_mm: Float64[np.ndarray, " n"]
    """Distance that blood has travelled from the ostium."""

    @property
    def along_mm(self) -> Float64[np.ndarray, " n"]:
        """Distance from this vessel's own origin."""
        return np.asarray(self.path_mm - self.path_mm[0], dtype=np.float64)


@dataclass(frozen=True)
class HeartFrame:
    """The ellipsoid on which vessels lie: its long axis, and two axes in the valve plane."""

    long_axis: Float64[np.ndarray, "3"]
    anterior: Float64[np.ndarray, "3"]
    right: Float64[np.ndarray, "3"]
    length_mm: float
    radius_mm: float

    def place(self, course: Float64[np.ndarray, "k 3"]) -> Float64[np.ndarray, "k 3"]:
        """Points of a course in mm.

        Args:
            course: Degrees round the long axis, degrees towards the apex, radius factor.
        """
        around, down = np.radians(course[:, 0]), np.radians(course[:, 1])
        ring = self.radius_mm * np.cos(down) * course[:, 2]
        return np.asarray(
            np.outer(self.length_mm * np.sin(down) - 0.35 * self.length_mm, self.long_axis)
            + np.outer(ring * np.cos(around), self.anterior)
            + np.outer(ring * np.sin(around), self.right)
        )


@dataclass(frozen=True)
class CoronaryTree:
    """The vessels of one injection, trunk first, and the lesions they carry."""

    side: Side
    frame: HeartFrame
    vessels: tuple[Vessel, ...]
    lesions: tuple[Lesion, ...] = ()

    def vessel(self, name: str) -> Vessel:
        """The vessel of that name."""
        return next(vessel for vessel in self.vessels if vessel.name == name)


def _narrow(
    rng: np.random.Generator, vessel: Vessel, lesion: tuple[float, float], severity: float
) -> Float64[np.ndarray, " n"]:
    """The vessel's diameters with a smooth, lopsided narrowing between two places in mm."""
    start, end = lesion
    share = np.clip((vessel.along_mm - start) / (end - start), 0, 1)
    skewed = share ** rng.uniform(0.75, 1.35)
    depth = np.sin(np.pi * skewed) ** rng.uniform(1.2, 2.2)
    return np.asarray(vessel.diameter_mm * (1 - severity * depth), dtype=np.float64)


def _bridged_mm(vessel: Vessel, start_mm: float, end_mm: float, at: int) -> float:
    """Diameter at a point of a vessel, in a straight line between two places."""
    ends = np.interp((start_mm, end_mm), vessel.along_mm, vessel.diameter_mm)
    return float(np.interp(vessel.along_mm[at], (start_mm, end_mm), ends))


def add_lesion(
    rng: np.random.Generator,
    tree: CoronaryTree,
    *,
    stenosis: tuple[float, float],
    spacing_from_others_mm: float = 6.0,
) -> CoronaryTree:
    """The tree with one more narrowing, whose analysed stretch meets no other lesion's.

    Args:
        rng: Source of all chance.
        tree: The tree to narrow.
        stenosis: Range of the depth of the narrowing, as a share of the diameter.
        spacing_from_others_mm: Distance kept between two analysed stretches of one vessel.
    """
    while True:
        named = [vessel for vessel in tree.vessels if vessel.cass.max() > NO_CASS]
        weight = np.array(
            [vessel.along_mm[-1] * vessel.diameter_mm.mean() ** 2 for vessel in named]
        )
        vessel = named[int(rng.choice(len(named), p=weight / weight.sum()))]
        length = rng.uniform(7, 20)
        before, after = rng.uniform(9, 24, 2)
        room = float(vessel.along_mm[-1]) - 2.0
        if before + length + after > room - 2.0:
            continue
        first = 2.0 + (room - 2.0 - before - length - after) * rng.beta(0.9, 1.8)
        last = first + before + length + after
        taken = [other for other in tree.lesions if other.vessel == vessel.name]
        if any(
            first < other.segment_end_mm + spacing_from_others_mm
            and other.segment_start_mm < last + spacing_from_others_mm
            for other in taken
        ):
            continue
        start, end = first + before, first + before + length
        narrowed = _narrow(rng, vessel, (start, end), rng.uniform(*stenosis))
        inside = (vessel.along_mm >= start) & (vessel.along_mm <= end)
        at = int(np.flatnonzero(inside)[np.argmin(narrowed[inside])])
        if vessel.diameter_mm[at] < REFERENCE_MIN_MM:
            continue
        lesion = Lesion(
            vessel.name, start, end, first, last, float(narrowed[at]), float(vessel.along_mm[at]),
            _bridged_mm(vessel, start, end, at), int(vessel.cass[at]),
        )  # fmt: skip
        vessels = tuple(
            replace(other, diameter_mm=narrowed) if other is vessel else other
            for other in tree.vessels
        )
        return replace(tree, vessels=vessels, lesions=(*tree.lesions, lesion))
