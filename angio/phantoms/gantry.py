"""From millimetres in the patient to pixels on the detector: the C-arm's geometry.

Knows nothing of vessels or intensities.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Gantry:
    """One position of the C-arm; its centre of rotation is the isocentre."""

    primary_deg: float
    """LAO positive, RAO negative. Source: DICOM PS3.3 C.8.7.5."""
    secondary_deg: float
    """Cranial positive, caudal negative."""
    source_detector_mm: float
    source_patient_mm: float
    imager_spacing_mm: float
    table_mm: tuple[float, float, float]
    """Where the heart's centre lies from the isocentre, in the patient's axes."""
    hw: tuple[int, int] = (512, 512)

    @property
    def isocentre_spacing_mm(self) -> float:
        """Millimetres per pixel in the plane of the isocentre."""
        return self.imager_spacing_mm * self.source_patient_mm / self.source_detector_mm

    @property
    def axes(
        self,
    ) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
        """Unit vectors of image columns, image rows and the beam (from the source)."""
        a, b = np.radians(self.primary_deg), np.radians(self.secondary_deg)
        beam = np.array([np.sin(a) * np.cos(b), -np.cos(a) * np.cos(b), np.sin(b)])
        columns = np.array([np.cos(a), np.sin(a), 0.0])
        rows = -np.array([-np.sin(a) * np.sin(b), np.cos(a) * np.sin(b), np.cos(b)])
        return columns, rows, beam

    def project(
        self, points_mm: Float64[np.ndarray, "n 3"]
    ) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
        """Pixel x, y of each point (centres at whole numbers), its px per mm, its depth in mm."""
        columns, rows, beam = self.axes
        placed = points_mm + np.asarray(self.table_mm)
        depth = placed @ beam
        px_per_mm = (
            self.source_detector_mm / (self.source_patient_mm + depth) / self.imager_spacing_mm
        )
        height, width = self.hw
        x = (placed @ columns) * px_per_mm + (width - 1) / 2
        y = (placed @ rows) * px_per_mm + (height - 1) / 2
        return np.stack([x, y], axis=1), np.asarray(px_per_mm), np.asarray(depth)
