"""Which coronary a frame shows and which segment a mask is: linear classifiers. Never loads torch.

They read what the encoder has seen in the tree and in the mask, where both lie, and the view's
angles. Their weights lie in the bundle as plain numbers (`names.json`); fitted by `namer_fit.py`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from pydantic import Field, model_validator

from casebook.cases import View
from casebook.documents import Document
from casebook.errors import ModelError
from casebook.labels import LabelSet
from export.bundle import read_part
from export.windows import whole

FILE = "names.json"
Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
SURE = 0.5
"""A name less probable than this is not said."""
_FAR = 5.0
"""Numbers further from the mean than this, in deviations, count as this far."""
_RIGHT = range(1, 11)
_ARTERY = {11: "LM", 28: "ramus", **dict.fromkeys((*range(12, 18), 29), "LAD")}


def side_of(code: int) -> Side:
    """The coronary a CASS segment belongs to. Source: DICOM PS3.16 CID 3014."""
    return "right" if code in _RIGHT else "left"


def artery_of(code: int) -> str:
    """RCA, LM, LAD, LCX or ramus, of a CASS number. Source: DICOM PS3.16 CID 3014."""
    return "RCA" if code in _RIGHT else _ARTERY.get(code, "LCX")


class Linear(Document):
    """A multinomial logistic regression, and how well it did on frames it was not fitted on."""

    classes: tuple[str, ...] = Field(min_length=2)
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    """One row a class, for numbers brought to mean 0 and deviation 1."""
    bias: tuple[float, ...]
    accuracy: float = Field(default=0.0, ge=0, le=1)
    """On the frozen validation frames …"""
    commonest: float = Field(default=0.0, ge=0, le=1)
    """… where always answering the commonest class reaches this …"""
    cases: int = Field(default=0, ge=0)
    """… of so many."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Linear":
        widths = {len(self.mean), len(self.deviation), *(len(row) for row in self.weights)}
        if len(widths) != 1 or {len(self.weights), len(self.bias)} != {len(self.classes)}:
            raise ValueError("weights, bias, mean and deviation are not of the classes' number")
        return self

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return (
            np.array(self.mean), np.array(self.deviation), np.array(self.weights),
            np.array(self.bias),
        )  # fmt: skip

    def probabilities(self, numbers: Float64[np.ndarray, " f"]) -> dict[str, float]:
        """Of each class; numbers that are not known count as the mean.

        Raises:
            ModelError: the numbers are those of another encoder.
        """
        if len(numbers) != len(self.mean):
            raise ModelError(
                f"{FILE} reads {len(self.mean)} numbers and this encoder gives {len(numbers)}; "
                "copy the bundle again"
            )
        mean, deviation, weights, bias = self._arrays
        logits = weights @ standardised((numbers - mean) / deviation) + bias
        shares = np.exp(logits - logits.max())
        return dict(zip(self.classes, (shares / shares.sum()).tolist(), strict=True))


def standardised(scaled: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Numbers in deviations: the unknown at the mean, the far ones brought near."""
    near: np.ndarray = np.clip(np.nan_to_num(scaled, nan=0.0), -_FAR, _FAR)
    return near


class Names(Document):
    """The classifiers of a bundle; one that is no better than guessing is left out."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    side: Linear | None = None
    segment: Linear | None = None
    """Its classes are names of labels."""

    @property
    def figures(self) -> dict[str, float]:
        """Accuracies by the names cards use."""
        named = {"side_accuracy": self.side, "segment_accuracy": self.segment}
        return {name: one.accuracy for name, one in named.items() if one is not None}


def read_names(folder: Path, files: dict[str, str]) -> Names | None:
    """The classifiers of a whole bundle; as `read_part` says."""
    return read_part(folder, files, FILE, Names)


@dataclass(frozen=True)
class Sight:
    """What a frame's encoder saw, as the classifiers read it."""

    maps: tuple[np.ndarray, ...]
    """Of the whole square, the finest first, each 1 × channels × height × width."""
    side_px: int
    """Of that square."""
    tree: Bool[np.ndarray, "h w"] | None
    view: View | None

    @cached_property
    def frame_numbers(self) -> Float64[np.ndarray, " f"]:
        """What says which coronary it is."""
        everywhere = np.concatenate([one[0].mean(axis=(1, 2)) for one in self.maps])
        if self.tree is None or self._tree_extent is None:
            in_tree, place = np.full(everywhere.shape, np.nan), np.full(5, np.nan)
        else:
            in_tree, place = self._inside(self.tree), _place(_set_xy(self.tree), self.tree.shape)
        return _joined(everywhere, in_tree, place, _angles(self.view))

    def mask_numbers(self, bitmap: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, " g"]:
        """What says which segment a mask is, with `frame_numbers` behind.

        Args:
            bitmap: with at least one pixel, at the frame's size.
        """
        at_xy = _set_xy(bitmap)
        place = _place(at_xy, bitmap.shape)
        beside = _beside(_Extent.of(at_xy), self._tree_extent, max(bitmap.shape))
        return _joined(self._inside(bitmap), place, beside, self.frame_numbers)

    @cached_property
    def _tree_extent(self) -> "_Extent | None":
        """Where the tree lies, when there is one."""
        return None if self.tree is None or not self.tree.any() else _Extent.of(_set_xy(self.tree))

    def _inside(self, bitmap: Bool[np.ndarray, "h w"]) -> Float64[np.ndarray, " c"]:
        """The maps' means over a mask."""
        window = whole((int(bitmap.shape[0]), int(bitmap.shape[1])))
        share = window.cut_values(bitmap.astype(np.float32), self.side_px, 0.0)
        found = []
        for one in self.maps:
            share = _coarser(share, share.shape[0] // one.shape[-1])
            total = max(float(share.sum()), 1e-6)
            found.append(np.tensordot(one[0], share, axes=((1, 2), (0, 1))) / total)
        return _joined(*found)


def _joined(*parts: np.ndarray) -> Float64[np.ndarray, " f"]:
    numbers: np.ndarray = np.concatenate(parts).astype(np.float64)
    return numbers


def _coarser(values: Float32[np.ndarray, "s s"], step: int) -> Float32[np.ndarray, "c c"]:
    """Means over squares of so many values each way."""
    rows = sum((values[first::step] for first in range(1, step)), values[::step])
    return sum((rows[:, first::step] for first in range(1, step)), rows[:, ::step]) / step**2


def _set_xy(bitmap: Bool[np.ndarray, "h w"]) -> Int64[np.ndarray, "2 n"]:
    """Columns and rows of the pixels set."""
    rows, columns = np.divmod(np.flatnonzero(bitmap), bitmap.shape[1])
    return np.stack([columns, rows])


def _place(at_xy: Int64[np.ndarray, "2 n"], hw: tuple[int, ...]) -> Float64[np.ndarray, "5"]:
    """Where a mask lies and how it is spread, in shares of the frame's longer side."""
    x, y = at_xy / float(max(hw))
    slant = float(((x - x.mean()) * (y - y.mean())).mean())
    return np.array([x.mean(), y.mean(), x.std(), y.std(), slant], dtype=np.float64)


@dataclass(frozen=True)
class _Extent:
    """Where the pixels of a mask lie, all in px."""

    middle_xy: Float64[np.ndarray, "2"]
    least_xy: Int64[np.ndarray, "2"]
    size_xy: Int64[np.ndarray, "2"]
    """Of the box around them."""
    count: int

    @classmethod
    def of(cls, at_xy: Int64[np.ndarray, "2 n"]) -> "_Extent":
        """Of columns and rows of pixels, at least one."""
        least, most = at_xy.min(axis=1), at_xy.max(axis=1)
        return cls(at_xy.mean(axis=1), least, most - least + 1, at_xy.shape[1])


def _beside(own: _Extent, tree: _Extent | None, frame_px: int) -> Float64[np.ndarray, "6"]:
    """Where a mask lies in its tree, and how much of it it is."""
    share = np.sqrt(own.count) / frame_px
    if tree is None:
        return np.array([*[np.nan] * 5, share])
    in_box = (own.middle_xy - tree.least_xy) / tree.size_xy
    from_middle = (own.middle_xy - tree.middle_xy) / frame_px
    return np.array([*in_box, *from_middle, own.count / tree.count, share], dtype=np.float64)


def _angles(view: View | None) -> Float64[np.ndarray, "4"]:
    """Sines and cosines of both angles; not numbers where the view is not known."""
    if view is None:
        return np.full(4, np.nan)
    both = np.radians([view.primary_deg, view.secondary_deg])
    return np.concatenate([np.sin(both), np.cos(both)])


@dataclass(frozen=True)
class Named:
    """A name and how probable it is."""

    name: str
    score: float


def name_side(names: Names, sight: Sight) -> Named | None:
    """Left or right coronary, where the bundle can tell and is sure enough."""
    if names.side is None:
        return None
    return _surest(names.side.probabilities(sight.frame_numbers))


def name_segment(
    names: Names, sight: Sight, bitmap: Bool[np.ndarray, "h w"], labels: LabelSet
) -> tuple[Named | None, Named | None]:
    """The segment's label and the artery it is of, each where it is sure enough.

    The segments of either coronary together are as probable as that coronary is.
    """
    if names.segment is None or not bitmap.any():
        return None, None
    found = names.segment.probabilities(sight.mask_numbers(bitmap))
    codes = {name: labels.find(name).code or 0 for name in found}
    if names.side is not None:
        sides = names.side.probabilities(sight.frame_numbers)
        for side, share in sides.items():
            members = [name for name, code in codes.items() if side_of(code) == side]
            total = sum(found[name] for name in members)
            for name in members:
                found[name] *= share / total if total > 0 else 0.0
    arteries: dict[str, float] = {}
    for name, probability in found.items():
        artery = artery_of(codes[name])
        arteries[artery] = arteries.get(artery, 0.0) + probability
    return _surest(found), _surest(arteries)


def _surest(probabilities: dict[str, float]) -> Named | None:
    name = max(probabilities, key=lambda one: probabilities[one])
    score = min(probabilities[name], 1.0)
    return Named(name, score) if score >= SURE else None
