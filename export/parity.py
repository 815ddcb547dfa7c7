"""Torch against the ONNX runtime: the same student, the same prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Int64

from casebook.metrics import iou
from casebook.protocols import Frame, Prompt
from export.answers import Graphs, Maps, StudentEmbedding, StudentSegmenter
from export.student import Features, Student


@dataclass(frozen=True)
class TorchGraphs:
    """The student's three parts in torch."""

    student: Student

    def encode(self, square: Float32[np.ndarray, "1 1 s s"]) -> Maps:
        """The square's maps; grey values 0–255."""
        with torch.inference_mode():
            return tuple(level.numpy() for level in self.student.encoder(torch.from_numpy(square)))

    def decode(
        self,
        maps: Maps,
        points_xy: Float32[np.ndarray, "1 n 2"],
        point_labels: Int64[np.ndarray, "1 n"],
        previous: Float32[np.ndarray, "1 1 s s"],
    ) -> tuple[Float32[np.ndarray, "s s"], float]:
        """Logits on the square and the expected IoU."""
        with torch.inference_mode():
            logits, quality = self.student.decoder(
                _features(maps),
                torch.from_numpy(points_xy),
                torch.from_numpy(point_labels),
                torch.from_numpy(previous),
            )
        return logits[0].numpy(), float(quality[0])

    def automatic(self, maps: Maps) -> Float32[np.ndarray, "k s s"]:
        """Logits of the automatic maps on the square."""
        with torch.inference_mode():
            found: np.ndarray = self.student.automatic(_features(maps))[0].numpy()
        return found


def _features(maps: Maps) -> Features:
    f2, f4, f8, f16 = (torch.from_numpy(level) for level in maps)
    return f2, f4, f8, f16


@dataclass(frozen=True)
class Parity:
    """How far two runs of the same student lie apart."""

    max_abs: float
    """Largest difference of a logit."""
    mask_iou: float
    """Smallest overlap of two masks."""
    prompts: int


def compare(one: StudentSegmenter, graphs: Graphs, asked: Sequence[tuple[Frame, Prompt]]) -> Parity:
    """The same prompts on two runtimes: box or clicks, a correction, and the automatic maps.

    Args:
        one: the student on the first runtime.
        graphs: the second runtime.
        asked: frames with a prompt each.
    """
    other = StudentSegmenter(
        one.model_id, graphs, one.side_px, one.whole_px, one.labels, one.maps, one.threshold
    )
    largest, smallest, count = 0.0, 1.0, 0
    for frame, prompt in asked:
        a, b = StudentEmbedding(frame), StudentEmbedding(frame)
        largest = max(largest, _gap(one.automatic_logits(a), other.automatic_logits(b)))
        previous: np.ndarray | None = None
        for _turn in range(2):
            wanted = Prompt(
                prompt.points_xy, prompt.point_labels, prompt.box_xyxy, mask_logits=previous
            )
            first, second = one.predict(a, wanted)[0], other.predict(b, wanted)[0]
            if first.logits is not None and second.logits is not None:
                largest = max(largest, _gap(first.logits, second.logits))
            smallest = min(smallest, iou(first.bitmap, second.bitmap))
            previous = first.logits
            count += 1
    return Parity(largest, smallest, count)


def _gap(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference; infinite when either is not a number."""
    gap = float(np.abs(a - b).max())
    return gap if np.isfinite(gap) else float("inf")
