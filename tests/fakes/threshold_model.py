"""A model without weights: dark pixels of a box, around a click, or of the whole image.

Keeps count of what it was asked, and can fail on demand as a broken model does.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from casebook.errors import ModelError
from casebook.protocols import Frame, Prediction, Prompt


@dataclass(frozen=True)
class DarkPixels:
    """The embedding: which pixels are dark."""

    frame: Frame
    bitmap: Bool[np.ndarray, "h w"]


class ThresholdSegmenter:
    """Implements `Segmenter`; vessels are darker than `level`."""

    def __init__(self, model_id: str = "threshold", *, level: int = 100) -> None:
        self._model_id = model_id
        self._level = level
        self.embedded: list[str] = []
        """Digests in the order they were embedded."""
        self.concepts: list[str] = []
        self.boxes: list[tuple[float, float, float, float]] = []

    @property
    def model_id(self) -> str:
        return self._model_id

    def embed(self, frame: Frame) -> DarkPixels:
        self.embedded.append(frame.digest)
        return DarkPixels(frame, frame.pixels < self._level)

    def predict(self, embedding: DarkPixels, prompt: Prompt) -> tuple[Prediction, ...]:
        asked = prompt.checked(embedding.frame.hw)
        if asked.concept is not None:
            self.concepts.append(asked.concept)
            return self._instances(embedding, asked.concept)
        inside = np.ones(embedding.frame.hw, dtype=bool)
        if asked.box_xyxy is not None:
            self.boxes.append(asked.box_xyxy)
            inside[:] = False
            x1, y1, x2, y2 = (round(value) for value in asked.box_xyxy)
            inside[y1 : y2 + 1, x1 : x2 + 1] = True
        numbered, _ = ndimage.label(embedding.bitmap & inside)
        wanted = np.zeros_like(inside) if len(asked.points_xy) else numbered > 0
        for (x, y), positive in zip(asked.points_xy, asked.point_labels, strict=True):
            number = numbered[round(y), round(x)]
            if number:
                wanted = (
                    wanted | (numbered == number) if positive else wanted & (numbered != number)
                )
        return (_prediction(wanted, None),)

    def _instances(self, embedding: DarkPixels, concept: str) -> tuple[Prediction, ...]:
        if concept == "broken":
            raise RuntimeError("a bug of the model")
        if concept == "gone":
            raise ModelError("the weights are gone; restore them")
        numbered, count = ndimage.label(embedding.bitmap)
        return tuple(_prediction(numbered == n, concept) for n in range(1, count + 1))


def _prediction(bitmap: Bool[np.ndarray, "h w"], label: str | None) -> Prediction:
    score = 0.9 if np.count_nonzero(bitmap) > 20 else 0.2
    logits = np.where(bitmap, 4.0, -4.0).astype(np.float32)
    return Prediction(bitmap, score, label, logits)


class ThresholdTracker:
    """Implements `Tracker`: the dark region that overlaps the last mask the most."""

    def __init__(self, *, level: int = 100) -> None:
        self._level = level

    def start(self, frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        return bitmap

    def step(self, memory: object, frame: Frame) -> tuple[object, Prediction]:
        assert isinstance(memory, np.ndarray)
        numbered, _ = ndimage.label(frame.pixels < self._level)
        near = ndimage.binary_dilation(memory, iterations=3)
        overlap = np.bincount(numbered[near].ravel(), minlength=2)
        overlap[0] = 0
        found = numbered == int(overlap.argmax()) if overlap.any() else np.zeros_like(memory)
        return (found if found.any() else memory), _prediction(found, None)
