"""The numbers of a mask, as attributes."""

import numpy as np
import pytest

from casebook.cases import PixelSpacing
from casebook.errors import QcaError
from casebook.protocols import Frame
from serverless.measure import vessel_attributes


def narrowed() -> np.ndarray:
    """A straight vessel 12 px wide, 6 px at its middle."""
    bitmap = np.zeros((60, 160), dtype=bool)
    for x in range(10, 150):
        half = 6 - 3 * np.exp(-(((x - 80) / 12) ** 2))
        bitmap[round(30 - half) : round(30 + half), x] = True
    return bitmap


def pictured(bitmap: np.ndarray) -> np.ndarray:
    return np.where(bitmap, 60, 180).astype(np.uint8)


def test_a_narrowing_is_given_in_percent_and_with_the_source_of_its_millimetres() -> None:
    spacing = PixelSpacing(row_mm=0.25, col_mm=0.25, source="isocentre")
    bitmap = narrowed()
    found = vessel_attributes(Frame(pictured(bitmap), spacing), bitmap)
    assert 35 <= int(found["stenosis_pct"]) <= 60
    millimetres, unit, source = found["mld"].split()
    assert 1.1 <= float(millimetres) <= 2.0
    assert (unit, source) == ("mm", "(isocentre)")


def test_without_spacing_the_diameter_is_in_pixels() -> None:
    bitmap = narrowed()
    assert vessel_attributes(Frame(pictured(bitmap)), bitmap)["mld"].endswith(" px")


def test_a_dot_is_not_measured() -> None:
    bitmap = np.zeros((30, 30), dtype=bool)
    bitmap[14:17, 14:17] = True
    with pytest.raises(QcaError):
        vessel_attributes(Frame(pictured(bitmap)), bitmap)
