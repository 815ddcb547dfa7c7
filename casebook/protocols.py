"""The two interfaces every model has: `Segmenter` and `Tracker`, and the values they exchange.

Coordinates enter in image pixels and leave in image pixels; x before y; a pixel's centre has whole
coordinates. Knows no model.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from casebook.cases import PixelSpacing, View
from casebook.errors import PromptError


@dataclass(frozen=True)
class Frame:
    """One rendered grey image with what is known of its geometry."""

    pixels: UInt8[np.ndarray, "h w"]
    spacing: PixelSpacing | None = None
    view: View | None = None

    @property
    def hw(self) -> tuple[int, int]:
        """Height and width in px."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pixels and their shape: the key of every cache."""
        head = f"{self.pixels.shape[0]}x{self.pixels.shape[1]}:".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def _no_points() -> Float64[np.ndarray, "0 2"]:
    return np.zeros((0, 2), dtype=np.float64)


def _no_labels() -> Int64[np.ndarray, "0"]:
    return np.zeros((0,), dtype=np.int64)


@dataclass(frozen=True)
class Prompt:
    """What the model is asked: box and points, one mask; a concept, all of a kind."""

    points_xy: Float64[np.ndarray, "n 2"] = field(default_factory=_no_points)
    point_labels: Int64[np.ndarray, "n"] = field(default_factory=_no_labels)
    """1 inside the object, 0 outside."""
    box_xyxy: tuple[float, float, float, float] | None = None
    """x1, y1, x2, y2 in px."""
    mask_logits: Float32[np.ndarray, "h w"] | None = None
    """The previous answer at image size, to be corrected."""
    exemplars_xyxy: tuple[tuple[float, float, float, float], ...] = ()
    """Boxes around examples of the concept."""
    concept: str | None = None
    """A label's name in words."""
    view: View | None = None

    def checked(self, hw: tuple[int, int]) -> "Prompt":
        """The prompt with its box clipped to the image.

        Raises:
            PromptError: empty, contradictory, not finite, or wholly outside the image.
        """
        height, width = hw
        if self.box_xyxy is None and len(self.points_xy) == 0 and self.concept is None:
            raise PromptError("the prompt is empty; give a box, a point or a concept")
        if self.concept is not None and not self.concept.strip():
            raise PromptError("the concept is an empty text; give a label's name")
        if not np.isfinite(self.points_xy).all():
            raise PromptError("a point is not finite; give x and y in px")
        if not np.isin(self.point_labels, (0, 1)).all():
            raise PromptError("a point's label is neither 1 (inside) nor 0 (outside)")
        outside = (
            (self.points_xy < -0.5).any(axis=1)
            | (self.points_xy[:, 0] > width - 0.5)
            | (self.points_xy[:, 1] > height - 0.5)
        )
        if outside.any():
            x, y = self.points_xy[outside][0]
            raise PromptError(f"point {x:.0f},{y:.0f} is outside the {width}×{height} px image")
        keys = {(float(x), float(y)) for x, y in self.points_xy[self.point_labels == 1]}
        for x, y in self.points_xy[self.point_labels == 0]:
            if (float(x), float(y)) in keys:
                raise PromptError(f"point {x:.0f},{y:.0f} is both inside and outside; drop one")
        if self.box_xyxy is None:
            if self.concept is None and not (self.point_labels == 1).any():
                raise PromptError("only negative points; give a box or a point inside the object")
            return self
        return Prompt(
            self.points_xy,
            self.point_labels,
            _clipped(self.box_xyxy, hw),
            self.mask_logits,
            self.exemplars_xyxy,
            self.concept,
            self.view,
        )


def _clipped(
    box_xyxy: tuple[float, float, float, float], hw: tuple[int, int]
) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box_xyxy
    if not np.isfinite(box_xyxy).all():
        raise PromptError("the box is not finite; give x1, y1, x2, y2 in px")
    x1, x2 = min(x1, x2), max(x1, x2)
    y1, y2 = min(y1, y2), max(y1, y2)
    height, width = hw
    if x2 < 0 or y2 < 0 or x1 > width - 1 or y1 > height - 1:
        raise PromptError(f"box {x1:.0f},{y1:.0f},{x2:.0f},{y2:.0f} is outside the image")
    return max(x1, 0.0), max(y1, 0.0), min(x2, width - 1.0), min(y2, height - 1.0)


@dataclass(frozen=True)
class Prediction:
    """One mask the model answers."""

    bitmap: Bool[np.ndarray, "h w"]
    score: float
    """Confidence that the mask is right, 0 to 1."""
    label: str | None = None
    """The concept asked for, when there was one."""
    logits: Float32[np.ndarray, "h w"] | None = None
    """Before the threshold, at image size: the next prompt's `mask_logits`."""
    heads: dict[str, float] = field(default_factory=dict)
    """Numbers of the model's other heads, by name."""
    uncertainty: float = 0.0
    """0 certain to 1 undecided."""


@runtime_checkable
class Embedding(Protocol):
    """What a model keeps of a frame between prompts; opaque to everyone else."""

    @property
    def frame(self) -> Frame:
        """The frame it was made from."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """A model that answers prompts about one frame."""

    @property
    def model_id(self) -> str:
        """The id every answer carries."""
        ...

    def embed(self, frame: Frame) -> Embedding:
        """What later prompts on this frame need; computed once."""
        ...

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        """One mask for a box or points; any number, best first, for a concept.

        Raises:
            PromptError: the prompt is empty, contradictory or outside the image.
        """
        ...


@runtime_checkable
class BatchSegmenter(Segmenter, Protocol):
    """A segmenter that computes the answers to several prompts on a frame together."""

    def predict_all(
        self, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> tuple[tuple[Prediction, ...], ...]:
        """What `predict` answers to each, in their order.

        Raises:
            PromptError: one of them is empty, contradictory or outside the image.
        """
        ...


def predict_all(
    segmenter: Segmenter, embedding: Embedding, prompts: Sequence[Prompt]
) -> tuple[tuple[Prediction, ...], ...]:
    """The answers to several prompts on a frame, in their order; together where the model can.

    Raises:
        PromptError: one of them is empty, contradictory or outside the image.
    """
    if isinstance(segmenter, BatchSegmenter):
        return segmenter.predict_all(embedding, prompts)
    return tuple(segmenter.predict(embedding, prompt) for prompt in prompts)


def answers_to(
    segmenter: Segmenter, embedding: Embedding, prompts: Sequence[Prompt]
) -> tuple[tuple[Prediction, ...] | None, ...]:
    """As `predict_all`, with None for each prompt that the model refuses."""
    try:
        return predict_all(segmenter, embedding, prompts)
    except PromptError:
        if len(prompts) == 1:
            return (None,)
    return tuple(answers_to(segmenter, embedding, [prompt])[0] for prompt in prompts)


@runtime_checkable
class Tracker(Protocol):
    """A model that carries a mask from frame to frame."""

    def start(self, frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> object:
        """A memory that knows this mask on this frame."""
        ...

    def step(self, memory: object, frame: Frame) -> tuple[object, Prediction]:
        """The memory after the next frame, and the mask on it; score near 0 when it is lost."""
        ...
