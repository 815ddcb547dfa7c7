"""What was learnt of a lesion's stenosis and diameters, told beside QCA. Never loads torch.

Each figure is a mixture of QCA's own, where there is one, and a regression over QCA's numbers, the
mask's widths, the vessel's darkness along its middle line and what the encoder saw in the mask. Its
weights lie in the bundle as plain numbers (`stenosis.json`); fitted by `estimator_fit.py`, which
leaves out what is no nearer to the experts than QCA.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8
from pydantic import Field, model_validator
from scipy import ndimage

from angio.qca import Lesion
from angio.thinning import thinned
from casebook.cases import PixelSpacing
from casebook.documents import Document
from casebook.errors import ModelError
from export.bundle import read_part
from export.findings import Learnt
from export.namer import standardised

FILE = "stenosis.json"
Figure = Literal["stenosis_pct", "mld_px", "rvd_px"]
FIGURES: tuple[Figure, Figure, Figure] = ("stenosis_pct", "mld_px", "rvd_px")
UNITS: dict[Figure, Literal["points", "px"]] = {
    "stenosis_pct": "points",
    "mld_px": "px",
    "rvd_px": "px",
}
_LEAST_PX = 0.5
"""Diameters below are taken for this, so that each has a logarithm."""
_SHORTEST_PX = 5
"""Middle lines of fewer pixels of the square say nothing."""
_DARKEST = 5.0
"""Grey values below are taken for this."""
_AROUND_PX = 8.0
"""Reach of what counts as the ground beside a vessel, in px of the square."""
_SHARES = (2, 10, 25, 75, 90)
"""Percentiles of widths along the line; of darkness the first four."""


@dataclass(frozen=True)
class Look:
    """What is known of a vessel when its lesion is estimated; all squares are of its window."""

    square: UInt8[np.ndarray, "s s"]
    """Grey values."""
    inside: Bool[np.ndarray, "s s"]
    """The mask."""
    logits: Float32[np.ndarray, "s s"]
    maps: tuple[np.ndarray, ...]
    """Of the encoder, each 1 × channels × height × width, of different sizes."""
    scale: float
    """Px of the image in a px of the square."""
    lesion: Lesion | None
    """QCA of the mask; none where that refused it."""
    score: float
    uncertainty: float

    @cached_property
    def numbers(self) -> Float64[np.ndarray, " f"]:
        """QCA, confidence, widths, darkness and logits; not numbers where there is none."""
        if self.lesion is None:
            measured = [np.nan, np.nan, np.nan, np.nan, 1.0]
        else:
            measured = [
                *(to_scale(figure, getattr(self.lesion, figure)) for figure in FIGURES),
                float(np.log(max(self.lesion.length_px, 1.0))),
                0.0,
            ]
        told = [self.score, self.uncertainty, float(np.log(self.scale))]
        return np.array([*measured, *told, *self._along_line], dtype=np.float64)

    @cached_property
    def seen(self) -> Float64[np.ndarray, " c"]:
        """The encoder's maps, averaged over the mask."""
        side = self.inside.shape[0]
        found = []
        for one in self.maps:
            rows = one.shape[-1]
            step = side // rows
            share = self.inside.reshape(rows, step, rows, step).mean(axis=(1, 3))
            total = max(float(share.sum()), 1e-6)
            found.append(np.tensordot(one[0], share, axes=((1, 2), (0, 1))) / total)
        joined: np.ndarray = np.concatenate(found)
        return joined.astype(np.float64)

    @property
    def _along_line(self) -> list[float]:
        """How wide and how dark the vessel is along its middle line, and how sure the mask."""
        line = thinned(self.inside)
        if int(line.sum()) < _SHORTEST_PX:
            return [np.nan] * (len(_SHARES) + 3 + len(_SHARES) + 1 + 4)
        radii = ndimage.distance_transform_edt(np.pad(self.inside, 1))[1:-1, 1:-1][line]
        middle = max(float(np.median(radii)), _LEAST_PX)
        widths = [*(np.percentile(radii, _SHARES) / middle)]
        widths += [
            np.log(middle * self.scale),
            np.log(line.sum() * self.scale),
            self.inside.sum() / (2 * middle * line.sum()),
        ]
        depth = self._darkness[line]
        usual = max(float(np.median(depth)), 0.02)
        dark = [*(np.percentile(depth, _SHARES[:4]) / usual), np.log(usual), depth.std() / usual]
        sure = np.percentile(self.logits[line], (2, 10, 25, 50))
        return [float(value) for value in (*widths, *dark, *sure)]

    @property
    def _darkness(self) -> Float64[np.ndarray, "s s"]:
        """How much less light passes than beside the vessel: in proportion to the contrast's depth.

        Source: Lambert's and Beer's law, as densitometric QCA takes it.
        """
        beside = ~ndimage.binary_dilation(self.inside, iterations=2)
        grey = self.square.astype(np.float64)
        light, weight = (
            ndimage.gaussian_filter(one, _AROUND_PX, truncate=2.0)
            for one in (grey * beside, beside.astype(np.float64))
        )
        ground = np.maximum(light / np.maximum(weight, 1e-3), _DARKEST)
        shown = np.maximum(ndimage.gaussian_filter(grey, 1.0), _DARKEST)
        darkness: np.ndarray = np.log(ground) - np.log(shown)
        return darkness


def to_scale(figure: Figure, value: float) -> float:
    """A figure as it is learnt: a share, or the logarithm of a diameter in px of the image."""
    return value / 100 if figure == "stenosis_pct" else float(np.log(max(value, _LEAST_PX)))


def from_scale(figure: Figure, value: float) -> float:
    """The figure that was learnt so, in its own unit."""
    return 100 * value if figure == "stenosis_pct" else float(np.exp(value))


class Regression(Document):
    """How one figure is estimated; all values as `to_scale` gives them."""

    weights: tuple[float, ...]
    """Of the numbers …"""
    seen_weights: tuple[float, ...] = ()
    """… and of what the encoder saw; empty where that did not help."""
    bias: float
    qca_share: float = Field(ge=0, le=1)
    """Of QCA's own figure in the estimate, where there is one."""
    low: float
    high: float
    """Estimates outside what was learnt from are cut."""
    usual: float
    """The median of what was learnt from."""


class Estimator(Document):
    """The regressions of a bundle; a figure that is no better than QCA's is left out."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    seen_mean: tuple[float, ...] = ()
    seen_deviation: tuple[float, ...] = ()
    stenosis_pct: Regression | None = None
    mld_px: Regression | None = None
    rvd_px: Regression | None = None

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Estimator":
        for figure in FIGURES:
            one: Regression | None = getattr(self, figure)
            if one is None:
                continue
            widths = {len(self.mean), len(self.deviation), len(one.weights)}
            seen = {len(self.seen_mean), len(self.seen_deviation)}
            if len(widths) != 1 or len(seen) != 1 or len(one.seen_weights) not in {0, *seen}:
                raise ValueError(f"the weights of {figure} are not as many as its numbers")
        return self

    def of(self, figure: Figure, look: Look) -> float | None:
        """One figure in its own unit; nothing where it was not learnt.

        Raises:
            ModelError: the numbers are those of another encoder.
        """
        one: Regression | None = getattr(self, figure)
        if one is None:
            return None
        value = one.bias + np.dot(one.weights, _scaled(look.numbers, self.mean, self.deviation))
        if one.seen_weights:
            seen = _scaled(look.seen, self.seen_mean, self.seen_deviation)
            value += np.dot(one.seen_weights, seen)
        if look.lesion is not None:
            measured = to_scale(figure, getattr(look.lesion, figure))
            value = one.qca_share * measured + (1 - one.qca_share) * value
        return from_scale(figure, float(np.clip(value, one.low, one.high)))

    def learnt(self, look: Look, spacing: PixelSpacing | None) -> Learnt:
        """All figures that were learnt; diameters in mm where there is a spacing."""
        mld_px, rvd_px = self.of("mld_px", look), self.of("rvd_px", look)
        scale = spacing.mean_mm if spacing else None
        return Learnt(
            stenosis_pct=self.of("stenosis_pct", look),
            mld_px=mld_px,
            rvd_px=rvd_px,
            mld_mm=mld_px * scale if mld_px is not None and scale else None,
            rvd_mm=rvd_px * scale if rvd_px is not None and scale else None,
        )


def _scaled(
    numbers: Float64[np.ndarray, " f"], mean: tuple[float, ...], deviation: tuple[float, ...]
) -> Float64[np.ndarray, " f"]:
    """Numbers in deviations from their mean.

    Raises:
        ModelError: they are not as many as were learnt from.
    """
    if len(numbers) != len(mean):
        raise ModelError(
            f"{FILE} reads {len(mean)} numbers and this encoder gives {len(numbers)}; copy the "
            "bundle again"
        )
    return standardised((numbers - np.array(mean)) / np.array(deviation))


def read_estimator(folder: Path, files: dict[str, str]) -> Estimator | None:
    """The regressions of a whole bundle; as `read_part` says."""
    return read_part(folder, files, FILE, Estimator)
