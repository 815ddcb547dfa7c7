"""What a header says of grey: the Modality LUT, and how the file means to be looked at.

Knows no photometric interpretation and no file.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, UInt16
from pydicom.dataset import Dataset, FileDataset

from angio.dicom.geometry import number_of, numbers_of

Curve = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

_ENTRIES_MAX = 65_536


@dataclass(frozen=True)
class Table:
    """A look-up table. Source: DICOM PS3.3 C.11.1.1.1."""

    first: int
    """The input that the first entry stands for; smaller inputs have it too."""
    values: UInt16[np.ndarray, " n"]
    bits: int

    def of(self, inputs: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """The entries for some inputs, the last one for all beyond the table."""
        at = np.clip(np.rint(inputs) - self.first, 0, len(self.values) - 1).astype(np.int64)
        return np.asarray(self.values[at], dtype=np.float64)


@dataclass(frozen=True)
class Tone:
    """From stored values to values that mean something, and from those to a picture."""

    modality: Table | None = None
    slope: float = 1.0
    intercept: float = 0.0
    voi: Table | None = None
    """The file's own look-up table for looking at it; it wins over the window."""
    window: tuple[float, float] | None = None
    """Centre and width."""
    curve: Curve = "LINEAR"

    def modality_values(self, stored: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"]:
        """Values after the Modality LUT. Source: DICOM PS3.3 C.11.1."""
        if self.modality is not None:
            return self.modality.of(stored)
        return np.asarray(stored * self.slope + self.intercept)

    @property
    def keeps_values(self) -> bool:
        """Whether the Modality LUT changes nothing but scale, and no percentile's rank."""
        return self.modality is None and self.slope > 0

    def seen(self, values: Float64[np.ndarray, " m"]) -> Float64[np.ndarray, " m"] | None:
        """Values as the file means them to be seen, 0 to 1; nothing when it does not say.

        Source: DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.
        """
        if self.voi is not None:
            return np.asarray(self.voi.of(values) / ((1 << self.voi.bits) - 1))
        if self.window is None:
            return None
        centre, width = self.window
        if self.curve == "SIGMOID":
            return np.asarray(
                1.0 / (1.0 + np.exp(np.clip(-4 * (values - centre) / width, -60, 60)))
            )
        if self.curve == "LINEAR":
            centre, width = centre - 0.5, width - 1.0
        if width <= 0:
            return np.asarray((values > centre).astype(np.float64))
        return np.asarray(np.clip((values - centre) / width + 0.5, 0.0, 1.0))


PLAIN = Tone()
"""Of a header that says nothing."""


def _table(item: Dataset) -> Table:
    n_entries, first, bits = (int(value) for value in numbers_of(item, "LUTDescriptor"))
    n_entries = n_entries or _ENTRIES_MAX
    raw = item.LUTData
    if isinstance(raw, bytes):
        values = np.frombuffer(raw, "<u2" if len(raw) >= 2 * n_entries else "u1")
    else:
        values = np.array([raw] if np.ndim(raw) == 0 else list(raw), dtype=np.int64)
    if len(values) < n_entries or not 8 <= bits <= 16 or not 1 <= n_entries <= _ENTRIES_MAX:
        raise ValueError(f"look-up table of {len(values)} entries; {n_entries} are declared")
    values = values[:n_entries]
    if int(values.max()) >= 1 << bits or int(values.min()) < 0:
        raise ValueError(f"look-up table has entries beyond its {bits} bits")
    return Table(first, values.astype(np.uint16), bits)


def tone_of(ds: FileDataset) -> Tone:
    """The tone a header describes; of several windows or tables the first.

    Raises:
        ValueError: a table or number of it is damaged.
        TypeError: likewise.
        AttributeError: likewise.
    """
    modality, voi = ds.get("ModalityLUTSequence"), ds.get("VOILUTSequence")
    slope, intercept = number_of(ds, "RescaleSlope"), number_of(ds, "RescaleIntercept")
    if slope == 0:
        raise ValueError("rescale slope of 0")
    centre, width = numbers_of(ds, "WindowCenter"), numbers_of(ds, "WindowWidth")
    named = str(ds.get("VOILUTFunction") or "LINEAR").upper()
    curve: Curve = (
        "SIGMOID" if named == "SIGMOID" else "LINEAR_EXACT" if named == "LINEAR_EXACT" else "LINEAR"
    )
    usable = centre and width and (width[0] >= 1 if curve == "LINEAR" else width[0] > 0)
    return Tone(
        modality=_table(modality[0]) if modality else None,
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        voi=_table(voi[0]) if voi else None,
        window=(centre[0], width[0]) if usable else None,
        curve=curve,
    )
