"""Following a mask from frame to frame with any `Segmenter`: the last answer is the next prompt.

For models that bring no tracking memory of their own. Knows no model.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from casebook import masks, metrics
from casebook.errors import DataError, PromptError
from casebook.protocols import Frame, Prediction, Prompt, Segmenter

MARGIN = 0.15
"""How far the object may move between frames, as a share of its box."""
MIN_MARGIN_PX = 4.0


@dataclass(frozen=True)
class Followed:
    """What is known of the object on the last frame it was seen on."""

    bitmap: Bool[np.ndarray, "h w"]
    logits: Float32[np.ndarray, "h w"] | None
    """The model's own answer, when it gave one."""


def memory_to_bytes(memory: Followed) -> bytes:
    """A memory for another process: the mask in bits, the answer in half precision."""
    arrays = {"hw": np.array(memory.bitmap.shape), "bits": np.packbits(memory.bitmap)}
    if memory.logits is not None:
        limit = np.finfo(np.float16).max
        arrays["logits"] = memory.logits.clip(-limit, limit).astype(np.float16)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def memory_from_bytes(payload: bytes) -> Followed:
    """A memory another process wrote.

    Raises:
        DataError: it is damaged.
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as arrays:
            height, width = (int(side) for side in arrays["hw"])
            bits = np.unpackbits(arrays["bits"], count=height * width)
            logits = arrays["logits"].astype(np.float32) if "logits" in arrays else None
        return Followed(bits.reshape(height, width).astype(bool), logits)
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise DataError("a tracker's memory is damaged; start from a shape again") from None


def check_drawn(frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> None:
    """Refuse a mask that cannot be followed from a frame.

    Raises:
        PromptError: it is empty, or of another size than the frame.
    """
    if bitmap.shape != frame.hw:
        raise PromptError(
            f"the mask is {bitmap.shape[1]}×{bitmap.shape[0]} px, the frame "
            f"{frame.hw[1]}×{frame.hw[0]}; draw it on this frame"
        )
    if not bitmap.any():
        raise PromptError("the mask to follow is empty; draw it first")


class Follower:
    """Implements `Tracker` over a `Segmenter`."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    def start(self, frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> Followed:
        """A memory that knows this mask.

        Raises:
            PromptError: the mask is empty or of another size than the frame.
        """
        check_drawn(frame, bitmap)
        return Followed(bitmap, None)

    def step(self, memory: object, frame: Frame) -> tuple[Followed, Prediction]:
        """The mask near the last one; its score falls with the overlap, to 0 when it is lost.

        Raises:
            PromptError: the memory is not this tracker's, or the frame has another size.
        """
        if not isinstance(memory, Followed) or memory.bitmap.shape != frame.hw:
            raise PromptError("this is not the run that was started; start tracking again")
        prompt = Prompt(box_xyxy=_grown(memory.bitmap), mask_logits=memory.logits, view=frame.view)
        found = self._segmenter.predict(self._segmenter.embed(frame), prompt.checked(frame.hw))
        best = found[0] if found else None
        if best is None or not best.bitmap.any():
            empty = np.zeros(frame.hw, dtype=bool)
            return memory, Prediction(empty, 0.0)
        score = best.score * metrics.iou(best.bitmap, memory.bitmap) ** 0.5
        return Followed(best.bitmap, best.logits), Prediction(best.bitmap, score, None, best.logits)


def _grown(bitmap: Bool[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = masks.box_of(bitmap)
    across = max(MARGIN * (x2 - x1), MIN_MARGIN_PX)
    down = max(MARGIN * (y2 - y1), MIN_MARGIN_PX)
    return x1 - across, y1 - down, x2 + across, y2 + down
