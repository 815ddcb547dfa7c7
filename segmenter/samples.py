"""A round's training data: crops and whole frames decoded once, and the batch of every step.

A batch is a function of the step and the seed alone. Knows no model and no medical label.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, UInt8
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from casebook import masks
from casebook.cases import View
from casebook.errors import DataError
from casebook.protocols import Frame, Prompt
from segmenter.asked import Whole, glances
from segmenter.concept import ConceptQuery
from segmenter.fit import TrainConfig
from segmenter.heads import HeadTargets, Targets, targets_of, view_numbers
from segmenter.prompts import (
    Window,
    WindowConfig,
    crop,
    crop_mask,
    normalised,
    place_of,
    whole_window,
    window_of,
    zoomed_window,
)

_CONTEXT = 1.5
"""The cached crop reaches this much further than the window, for rotation and shift."""


@dataclass(frozen=True)
class TrainMask:
    """One mask of a training frame."""

    label: str
    """The concept it is an instance of."""
    bitmap: Bool[np.ndarray, "h w"]
    weight: float = 1.0
    """How much it counts, by who made it."""
    prompted: bool = True
    """Whether boxes and clicks ask for it; a whole tree is asked for by its name only."""
    targets: Targets = field(default_factory=Targets)
    """What the heads learn of it."""
    named: bool = True
    """Whether its label asks for it; a stretch of what the label means is not what it means."""


@dataclass(frozen=True)
class Sample:
    """A frame with its masks."""

    frame: Frame
    masks: tuple[TrainMask, ...]
    absent: tuple[str, ...] = ()
    """Concepts an expert would have marked if they were there: the negatives."""
    name: str = ""
    """What messages call it; nothing of a patient."""
    similar: tuple[str, ...] = ()
    """Those absent that are easily taken for what is there: the hard negatives."""


class Augmentation(BaseModel):
    """Random changes of a training crop; never a flip, which would make right of left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation_deg: float = Field(30.0, ge=0)
    scale: float = Field(0.3, ge=0, lt=1)
    shift: float = Field(0.08, ge=0)
    """Of the square's side."""
    contrast: float = Field(0.4, ge=0, lt=1)
    gamma: float = Field(0.4, ge=0, lt=1)
    noise: float = Field(8.0, ge=0)
    """Largest standard deviation, grey levels."""


@dataclass(frozen=True)
class _Crop:
    """A decoded crop, larger than the window, with its mask."""

    pixels: UInt8[np.ndarray, "c c"]
    bitmap: Bool[np.ndarray, "c c"]
    weight: float
    size_px: int
    """Side of the crop in px of the image."""
    place: tuple[float, float, float]
    """Where in the frame it lies, see `segmenter/prompts.py`."""
    view: View | None
    targets: Targets
    name: str


@dataclass(frozen=True)
class Batch:
    """What one step trains on: single masks, or concept queries."""

    pixels: Float[Tensor, "i 3 s s"]
    truth: Bool[Tensor, "i s s"] | None = None
    weights: Float[Tensor, " i"] | None = None
    views: Float[Tensor, "i 5"] | None = None
    """Sine and cosine of the angles, see `segmenter/heads.py`."""
    places: Float[Tensor, "i 3"] | None = None
    """Where in its frame each square lies, see `segmenter/prompts.py`."""
    heads: HeadTargets | None = None
    queries: tuple[ConceptQuery, ...] = ()


def _looks(mask: TrainMask, hw: tuple[int, int], windows: WindowConfig) -> list[Window]:
    """The windows a mask is learnt in: the first look's and, where there is one, the second's."""
    x1, y1, x2, y2 = masks.box_of(mask.bitmap)
    prompt = Prompt(box_xyxy=(float(x1), float(y1), float(x2), float(y2)))
    second = zoomed_window(prompt, None, hw, windows)
    first = window_of(prompt, hw, windows)
    return [first] if second is None else [first, second]


class RoundData:
    """All crops of a round, decoded once; `batch` draws those of a step."""

    def __init__(
        self,
        samples: Sequence[Sample],
        config: TrainConfig,
        windows: WindowConfig,
        augmentation: Augmentation,
        side_px: int,
        queries: int,
        *,
        standardised: bool = True,
    ) -> None:
        self._standardised = standardised
        self._config, self._augmentation, self._side = config, augmentation, side_px
        self._queries = queries
        self._tile = windows.tile
        self._by_name = frozenset(
            mask.label for sample in samples for mask in sample.masks if not mask.prompted
        )
        asked = [
            (sample, mask)
            for sample in samples
            for mask in sample.masks
            if mask.prompted and mask.bitmap.any()
        ]
        self._n_masks = len(asked)
        self._crops = [
            self._crop_of(sample, mask, window)
            for sample, mask in asked
            for window in _looks(mask, sample.frame.hw, windows)
        ]
        wholes = [self._whole_of(sample) for sample in samples]
        self._wholes = [whole for whole in wholes if whole.instances]
        if not self._crops and not (self._wholes and config.concept_every == 1):
            raise DataError("no mask to train on; the samples are empty, pull annotations first")

    @property
    def n_masks(self) -> int:
        """Masks that boxes and clicks ask for."""
        return self._n_masks

    @property
    def head_targets(self) -> HeadTargets:
        """What the heads learn of each crop, as seen in its window."""
        sizes = torch.tensor([item.size_px / _CONTEXT for item in self._crops])
        return targets_of([item.targets for item in self._crops], self._side / sizes)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every crop is seen once, concept steps included.

        Where all steps are concept steps: in which every frame is seen once.
        """
        interactive = len(self._crops) / self._config.batch
        every = self._config.concept_every
        if every == 1:
            return len(self._wholes) / self._frames_a_step
        return interactive * every / (every - 1) if every > 1 else interactive

    @property
    def _frames_a_step(self) -> int:
        return min(len(self._wholes), max(1, self._config.batch // 2))

    def is_concept(self, step: int) -> bool:
        """Whether a step trains the concept path."""
        every = self._config.concept_every
        return every > 0 and step % every == every - 1

    def _crop_of(self, sample: Sample, mask: TrainMask, window: Window) -> _Crop:
        frame = sample.frame
        size = round(window.size_px * _CONTEXT)
        margin = (size - window.size_px) // 2
        context = Window(window.x - margin, window.y - margin, size)
        cached = round(self._side * _CONTEXT)
        return _Crop(
            crop(frame.pixels, context, cached),
            crop_mask(mask.bitmap, context, cached),
            mask.weight,
            size,
            place_of(context, frame.hw),
            frame.view,
            mask.targets,
            sample.name or frame.digest[:12],
        )

    def _whole_of(self, sample: Sample) -> Whole:
        window = whole_window(sample.frame.hw)
        side = round(self._side / (self._tile or 1.0))
        asked = [mask for mask in sample.masks if mask.named and mask.bitmap.any()]
        instances = {
            label: np.stack(
                [crop_mask(mask.bitmap, window, side) for mask in asked if mask.label == label][
                    : self._queries
                ]
            )
            for label in sorted({mask.label for mask in asked})
        }
        absent = tuple(label for label in sample.absent if label not in instances)
        pixels = crop(sample.frame.pixels, window, side)
        similar = tuple(label for label in sample.similar if label in absent)
        return Whole(pixels, instances, absent, sample.frame.view, similar)

    def names(self, step: int) -> str:
        """What the batch of a step is made of, for messages."""
        if self.is_concept(step):
            return "concepts of whole frames"
        turn = step - step // self._config.concept_every if self._config.concept_every else step
        return ", ".join(sorted({self._crops[index].name for index in self._order(turn)}))

    def batch(self, step: int) -> Batch:
        """The batch of a step: a function of the step and the seed."""
        rng = np.random.default_rng((self._config.seed, step))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        if self.is_concept(step):
            return self._concept_batch(rng, generator)
        every = self._config.concept_every
        turn = step - step // every if every else step
        chosen = [self._crops[index] for index in self._order(turn)]
        pixels = torch.from_numpy(np.stack([item.pixels for item in chosen]))
        bitmaps = torch.from_numpy(np.stack([item.bitmap for item in chosen]))
        grid, reach = self._grid(len(chosen), generator, 1 / _CONTEXT)
        magnified = self._side / (reach * torch.tensor([float(item.size_px) for item in chosen]))
        truth = _sampled(bitmaps.float(), grid) > 0.5
        places = torch.tensor([item.place for item in chosen])
        crop_half = places[:, 2:]
        places[:, :2] += crop_half * grid.mean(dim=(1, 2))
        places[:, 2:] = crop_half * reach[:, None]
        return Batch(
            self._pixels(_sampled(pixels.float(), grid), generator),
            truth,
            torch.tensor([item.weight for item in chosen]) * truth.flatten(1).any(dim=1),
            view_numbers([item.view for item in chosen]),
            places,
            targets_of([item.targets for item in chosen], magnified),
        )

    def _order(self, turn: int) -> list[int]:
        """Indices of the crops of a turn: epochs are permutations laid end to end."""
        count, wanted = len(self._crops), self._config.batch
        indices = []
        for position in range(turn * wanted, (turn + 1) * wanted):
            epoch, offset = divmod(position, count)
            order = np.random.default_rng((self._config.seed, 1, epoch)).permutation(count)
            indices.append(int(order[offset]))
        return indices

    def _concept_batch(self, rng: np.random.Generator, generator: torch.Generator) -> Batch:
        count, share = self._frames_a_step, self._tile
        if share is None:
            chosen = [self._wholes[i] for i in rng.choice(len(self._wholes), count, replace=False)]
            grid, _ = self._grid(count, generator, 1.0)
            asked = None
        else:
            seen = glances(self._wholes, self._by_name, count, share, rng)
            chosen, asked = [one.whole for one in seen], [one.labels for one in seen]
            grid, _ = self._grid(count, generator, share)
            middle = torch.from_numpy(np.stack([one.centre_xy for one in seen])).float()
            grid = grid + middle[:, None, None]
        pixels = _sampled(
            torch.from_numpy(np.stack([item.pixels for item in chosen])).float(), grid
        )
        queries: list[ConceptQuery] = []
        for index, item in enumerate(chosen):
            labels = asked[index] if asked else rng.permutation(sorted(item.instances))[:2]
            for label in labels:
                stack = torch.from_numpy(item.instances[str(label)]).float()
                moved = (
                    _sampled(stack, grid[index : index + 1].expand(len(stack), -1, -1, -1)) > 0.5
                )
                shown = moved[moved.flatten(1).any(dim=1)]
                text = item.worded(str(label), with_view=self._config.view_in_text)
                queries.append(ConceptQuery(index, text, shown, item.view))
            if item.absent and rng.random() < 0.5:
                none = torch.zeros(0, self._side, self._side, dtype=torch.bool)
                missing = item.missing(rng, self._config.hard_negatives)
                text = item.worded(missing, with_view=self._config.view_in_text)
                queries.append(ConceptQuery(index, text, none, item.view))
        return Batch(self._pixels(pixels, generator), queries=tuple(queries))

    def _grid(
        self, count: int, generator: torch.Generator, reach: float
    ) -> tuple[Float[Tensor, "b s s 2"], Float[Tensor, " b"]]:
        """Where to sample each crop: a small random rotation, scale and shift; and the scale."""
        a = self._augmentation

        def spread(extent: float) -> Tensor:
            return (torch.rand(count, generator=generator) * 2 - 1) * extent

        angle = spread(math.radians(a.rotation_deg))
        scale = reach * torch.exp(spread(math.log1p(a.scale)))
        matrix = torch.stack(
            [
                torch.stack(
                    [scale * angle.cos(), -scale * angle.sin(), spread(2 * a.shift * reach)]
                ),
                torch.stack(
                    [scale * angle.sin(), scale * angle.cos(), spread(2 * a.shift * reach)]
                ),
            ]
        ).permute(2, 0, 1)
        grid = F.affine_grid(matrix, [count, 1, self._side, self._side], align_corners=False)
        return grid, scale

    def _pixels(
        self, values: Float[Tensor, "b s s"], generator: torch.Generator
    ) -> Float[Tensor, "b 3 s s"]:
        """Random contrast, gamma and noise, then what the model reads."""
        a, count = self._augmentation, len(values)

        def spread(extent: float) -> Tensor:
            return ((torch.rand(count, generator=generator) * 2 - 1) * extent)[:, None, None]

        unit = (values / 255.0).clamp(1e-3, 1.0) ** torch.exp(spread(a.gamma))
        unit = (unit - 0.5) * torch.exp(spread(a.contrast)) + 0.5
        amount = torch.rand(count, 1, 1, generator=generator) * a.noise / 255.0
        unit = unit + amount * torch.randn(unit.shape, generator=generator)
        grey = (unit * 255.0).clamp(0, 255).to(torch.uint8)
        return normalised(grey, standardised=self._standardised)


def _sampled(
    values: Float[Tensor, "b c c"], grid: Float[Tensor, "b s s 2"]
) -> Float[Tensor, "b s s"]:
    return F.grid_sample(
        values[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[:, 0]
