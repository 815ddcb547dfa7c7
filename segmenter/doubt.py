"""How unsure a model is of a mask: what it says itself, and how far other askings disagree.

Asks any `Segmenter` again: for boxes and clicks a little elsewhere, and in pictures a little darker
and lighter, as another operator and another tube would give. Knows no network.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from casebook.metrics import iou
from casebook.protocols import Frame, Prediction, Prompt, Segmenter

GAMMAS = (0.75, 1.33)
"""Exponents of the grey levels: within what exposure and rendering vary by."""
SHIFTS = ((-1, -1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (-1, 1, -1, 1))
"""How each side of a box moves: wider, narrower, and towards two corners."""
SHIFT_SHARE, SHIFT_LEAST_PX = 0.06, 1.0
"""By this share of the box's side, as readers' boxes differ, and at least by so much."""
_UNDECIDED = 0.05
"""Pixels this little likely to belong to the mask are left out of its entropy."""


@dataclass(frozen=True)
class Doubt:
    """How unsure a model is of its answer; each part from 0, certain, to 1."""

    said: float
    """1 less the overlap the model expects of its mask."""
    entropy: float
    """Of the mask's pixels, in bits."""
    prompts: float | None
    """1 less the mean overlap with answers to shifted prompts; none for a concept."""
    contrast: float
    """1 less the mean overlap with answers in darker and lighter pictures."""

    @property
    def total(self) -> float:
        """The mean of the parts there are."""
        parts = (self.said, self.entropy, self.prompts, self.contrast)
        return mean(part for part in parts if part is not None)


NO_ANSWER = Doubt(1.0, 1.0, 1.0, 1.0)
"""Of a prompt that nothing was answered to."""


def mask_entropy(logits: Float32[np.ndarray, "h w"]) -> float:
    """Mean entropy in bits of the pixels that may belong to a mask; 1 when there are none."""
    shares = 1.0 / (1.0 + np.exp(-logits[logits > np.log(_UNDECIDED / (1 - _UNDECIDED))]))
    if not len(shares):
        return 1.0
    sure = shares.clip(1e-7, 1 - 1e-7)
    bits = -(sure * np.log2(sure) + (1 - sure) * np.log2(1 - sure))
    return float(bits.mean())


def uncertainty_of(score: float, logits: Float32[np.ndarray, "h w"]) -> float:
    """What one answer tells of its own doubt: the mean of what was said and the entropy."""
    return min(1.0, max(0.0, (1.0 - score + mask_entropy(logits)) / 2))


def doubt(segmenter: Segmenter, frame: Frame, prompt: Prompt) -> Doubt:
    """How unsure a model is of its best answer to a prompt; `NO_ANSWER` where it gives none.

    Costs an embedding for each of `GAMMAS` besides the frame's own.

    Raises:
        PromptError: the prompt is empty, contradictory or outside the image.
    """
    answer = _best(segmenter, frame, prompt)
    if answer is None or not answer.bitmap.any():
        return NO_ANSWER
    asked = list(_shifted(prompt, frame.hw))
    elsewhere = [_bitmap(segmenter, frame, one) for one in asked]
    otherwise = [
        _bitmap(segmenter, replace(frame, pixels=_gamma(frame.pixels, gamma)), prompt)
        for gamma in GAMMAS
    ]
    entropy = answer.uncertainty if answer.logits is None else mask_entropy(answer.logits)
    return Doubt(
        said=1.0 - answer.score,
        entropy=entropy,
        prompts=_disagreement(answer.bitmap, elsewhere) if asked else None,
        contrast=_disagreement(answer.bitmap, otherwise),
    )


def _best(segmenter: Segmenter, frame: Frame, prompt: Prompt) -> Prediction | None:
    found = segmenter.predict(segmenter.embed(frame), prompt)
    return found[0] if found else None


def _bitmap(segmenter: Segmenter, frame: Frame, prompt: Prompt) -> Bool[np.ndarray, "h w"]:
    found = _best(segmenter, frame, prompt)
    return np.zeros(frame.hw, dtype=bool) if found is None else found.bitmap


def _disagreement(
    answer: Bool[np.ndarray, "h w"], others: Iterable[Bool[np.ndarray, "h w"]]
) -> float:
    return 1.0 - mean(iou(answer, other) for other in others)


def _gamma(pixels: UInt8[np.ndarray, "h w"], gamma: float) -> UInt8[np.ndarray, "h w"]:
    table = np.rint(255.0 * (np.arange(256) / 255.0) ** gamma).astype(np.uint8)
    return np.asarray(table[pixels])


def _shifted(prompt: Prompt, hw: tuple[int, int]) -> Iterable[Prompt]:
    """The prompt with its box, or else its clicks, a little elsewhere; still inside the image."""
    height, width = hw
    if prompt.box_xyxy is not None:
        box = np.array(prompt.box_xyxy)
        sides = np.tile(box[2:] - box[:2] + 1, 2)
        for signs in SHIFTS:
            moved = box + np.array(signs, dtype=np.float64) * np.maximum(
                SHIFT_SHARE * sides, SHIFT_LEAST_PX
            )
            x1, y1, x2, y2 = moved.clip(0, [width - 1, height - 1, width - 1, height - 1])
            if x1 <= x2 and y1 <= y2:
                corners = (float(x1), float(y1), float(x2), float(y2))
                yield replace(prompt, box_xyxy=corners, mask_logits=None)
    elif len(prompt.points_xy):
        for step in ((-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)):
            points = (prompt.points_xy + np.array(step)).clip(0, [width - 1, height - 1])
            yield replace(prompt, points_xy=points, mask_logits=None)
