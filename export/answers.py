"""The student as a Segmenter: windows, prompts and masks around three graphs. No torch.

The graphs may run anywhere (`Graphs`): the ONNX runtime on the deployment machine, torch when the
two are compared.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8
from scipy import ndimage

from casebook.labels import LabelSet
from casebook.protocols import Embedding, Frame, Prediction, Prompt
from export.bundle import AutomaticMap
from export.estimator import Estimator
from export.namer import Names
from export.windows import Window, whole, window_of

Maps = tuple[np.ndarray, ...]
"""The encoder's answer; opaque here."""
_FAR = -16.0
"""Logit of pixels outside the window."""
_EIGHT = np.ones((3, 3), dtype=bool)
_WINDOWS_KEPT = 8
_SMALLEST_LESION_PX = 12
_MOST_LESIONS = 20


@runtime_checkable
class Graphs(Protocol):
    """Something that runs the student's three parts."""

    def encode(self, square: Float32[np.ndarray, "1 1 s s"]) -> Maps:
        """The square's maps; grey values 0–255."""
        ...

    def decode(
        self,
        maps: Maps,
        points_xy: Float32[np.ndarray, "1 n 2"],
        point_labels: Int64[np.ndarray, "1 n"],
        previous: Float32[np.ndarray, "1 1 s s"],
    ) -> tuple[Float32[np.ndarray, "s s"], float]:
        """Logits on the square and the expected IoU."""
        ...

    def automatic(self, maps: Maps) -> Float32[np.ndarray, "k s s"]:
        """Logits of the automatic maps on the square."""
        ...


@dataclass
class StudentEmbedding:
    """Maps of the windows asked for so far; the oldest are dropped."""

    frame: Frame
    windows: OrderedDict[Window, Maps] = field(default_factory=OrderedDict)
    whole: Maps | None = None
    automatic: Float32[np.ndarray, "k h w"] | None = None


@dataclass(frozen=True)
class StudentSegmenter:
    """Answers prompts with a student's graphs."""

    model_id: str
    graphs: Graphs
    side_px: int
    whole_px: int
    labels: LabelSet
    maps: tuple[AutomaticMap, ...]
    threshold: float = 0.0
    names: Names | None = None
    """Classifiers of coronary and segment, where the bundle has them."""
    estimator: Estimator | None = None
    """What was learnt of lesions, where the bundle has it."""

    def embed(self, frame: Frame) -> StudentEmbedding:
        """An empty memory of a frame; windows are encoded when first asked for."""
        return StudentEmbedding(frame)

    def predict(self, embedding: Embedding, prompt: Prompt) -> tuple[Prediction, ...]:
        """One mask for a box or clicks; the tree or the lesions, best first, for a concept.

        Raises:
            PromptError: the prompt is empty, contradictory or outside the image.
        """
        own = (
            embedding
            if isinstance(embedding, StudentEmbedding)
            else StudentEmbedding(embedding.frame)
        )
        checked = prompt.checked(own.frame.hw)
        if checked.box_xyxy is None and len(checked.points_xy) == 0:
            return self._concept(own, checked.concept or "")
        return (self._prompted(own, checked),)

    def lesions(self, embedding: StudentEmbedding, most: int) -> tuple[Prediction, ...]:
        """Lesion candidates, best first: so many of each map that shows them."""
        return tuple(
            found
            for index, one in enumerate(self.maps)
            if one.role == "lesion"
            for found in _lesions(
                self.automatic_logits(embedding)[index], one.threshold, one.label, most
            )
        )

    def automatic_logits(self, embedding: StudentEmbedding) -> Float32[np.ndarray, "k h w"]:
        """The automatic head's maps at image size, in the order of `maps`."""
        if embedding.automatic is None:
            window = whole(embedding.frame.hw)
            found = self.graphs.automatic(self.whole_maps(embedding))
            embedding.automatic = np.stack(
                [window.place(one, embedding.frame.hw, _FAR) for one in found]
            )
        return embedding.automatic

    def whole_maps(self, embedding: StudentEmbedding) -> Maps:
        """The encoder's maps of the square that holds the whole image."""
        if embedding.whole is None:
            square = whole(embedding.frame.hw).cut(embedding.frame.pixels, self.whole_px)
            embedding.whole = self.graphs.encode(_batch(square))
        return embedding.whole

    def window_maps(self, embedding: StudentEmbedding, prompt: Prompt) -> tuple[Window, Maps]:
        """The window a box or clicks are answered in, with the encoder's maps of it."""
        window = window_of(prompt.checked(embedding.frame.hw), embedding.frame.hw)
        return window, self._maps(embedding, window)

    def _maps(self, embedding: StudentEmbedding, window: Window) -> Maps:
        known = embedding.windows.get(window)
        if known is None:
            square = window.cut(embedding.frame.pixels, self.side_px)
            known = self.graphs.encode(_batch(square))
            embedding.windows[window] = known
            while len(embedding.windows) > _WINDOWS_KEPT:
                embedding.windows.popitem(last=False)
        embedding.windows.move_to_end(window)
        return known

    def _prompted(self, embedding: StudentEmbedding, prompt: Prompt) -> Prediction:
        window = window_of(prompt, embedding.frame.hw)
        points, labels = square_points(prompt, window, self.side_px)
        previous = np.zeros((1, 1, self.side_px, self.side_px), dtype=np.float32)
        if prompt.mask_logits is not None:
            previous[0, 0] = window.cut_values(prompt.mask_logits, self.side_px, _FAR)
        square, quality = self.graphs.decode(
            self._maps(embedding, window), points, labels, previous
        )
        logits = window.place(square, embedding.frame.hw, _FAR)
        return Prediction(
            logits > self.threshold,
            float(np.clip(quality, 0.0, 1.0)),
            prompt.concept,
            logits,
            {"expected_iou": float(np.clip(quality, 0.0, 1.0))},
            _indecision(logits),
        )

    def _concept(self, embedding: StudentEmbedding, concept: str) -> tuple[Prediction, ...]:
        wanted = " ".join(concept.replace("_", " ").split()).casefold()
        for index, one in enumerate(self.maps):
            label = self.labels.find(one.label)
            if wanted not in {label.name.casefold(), *(a.casefold() for a in label.aliases)}:
                continue
            logits = self.automatic_logits(embedding)[index]
            if one.role == "tree":
                return _tree(logits, logits > one.threshold, concept)
            return _lesions(logits, one.threshold, concept, _MOST_LESIONS)
        return ()


def _tree(
    logits: Float32[np.ndarray, "h w"], bitmap: Bool[np.ndarray, "h w"], concept: str
) -> tuple[Prediction, ...]:
    if not bitmap.any():
        return ()
    score = float(_probability(logits[bitmap]).mean())
    return (Prediction(bitmap, score, concept, logits, {}, _indecision(logits)),)


def _lesions(
    logits: Float32[np.ndarray, "h w"], threshold: float, concept: str, most: int
) -> tuple[Prediction, ...]:
    bitmap = logits > threshold
    numbered, _ = ndimage.label(bitmap, structure=_EIGHT)
    found = []
    for number, box in enumerate(ndimage.find_objects(numbered), start=1):
        part, values = numbered[box] == number, logits[box]
        if np.count_nonzero(part) >= _SMALLEST_LESION_PX:
            found.append((float(_probability(values[part]).mean()), box, part))
    answers = []
    for score, box, part in sorted(found, key=lambda each: -each[0])[:most]:
        one, alone = np.zeros_like(bitmap), np.full_like(logits, _FAR)
        one[box] = part
        alone[box][part] = logits[box][part]
        answers.append(Prediction(one, score, concept, alone))
    return tuple(answers)


def square_points(
    prompt: Prompt, window: Window, square_px: int
) -> tuple[Float32[np.ndarray, "1 n 2"], Int64[np.ndarray, "1 n"]]:
    """A prompt as the decoder's points: the box's corners, then the clicks."""
    corners = np.zeros((0, 2))
    if prompt.box_xyxy is not None:
        corners = np.array(prompt.box_xyxy, dtype=np.float64).reshape(2, 2)
    points = window.to_square(np.concatenate([corners, prompt.points_xy]), square_px)
    kinds = np.concatenate([np.array([2, 3])[: len(corners)], prompt.point_labels])
    return points[None].astype(np.float32), kinds[None].astype(np.int64)


def _batch(square: UInt8[np.ndarray, "s s"]) -> Float32[np.ndarray, "1 1 s s"]:
    return square[None, None].astype(np.float32)


def _probability(logits: Float32[np.ndarray, "n"]) -> Float32[np.ndarray, "n"]:
    probability: np.ndarray = 1.0 / (1.0 + np.exp(-logits))
    return probability.astype(np.float32)


def _indecision(logits: Float32[np.ndarray, "h w"]) -> float:
    """How undecided the pixels are that may belong to the mask: 0 certain, 1 all at one half."""
    possible = logits[logits > -2.0]
    if possible.size == 0:
        return 0.0
    return float(1.0 - np.abs(2.0 * _probability(possible) - 1.0).mean())
