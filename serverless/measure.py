"""The coronary numbers a detector's mask carries: stenosis and minimal diameter."""

import numpy as np
from jaxtyping import Bool

from angio import qca
from casebook.protocols import Frame


def vessel_attributes(frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> dict[str, str]:
    """Diameter stenosis in percent and MLD with its unit: mm when the image carries its spacing.

    Raises:
        QcaError: the vessel cannot be measured.
    """
    lesion = qca.measure(frame.pixels, bitmap, frame.spacing, by_model=True)
    return {"stenosis_pct": f"{lesion.stenosis_pct:.0f}", "mld": lesion.mld_text}
