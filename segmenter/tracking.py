"""Tracking with SAM 3's own memory as a `casebook.protocols.Tracker`.

A sequence is walked in either direction: feed the frames in the order of the walk. The shipped tiny
base has no trained memory; with it, `casebook.following` is the tracker to use.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool

from casebook import masks
from casebook.errors import PromptError
from casebook.following import check_drawn
from casebook.protocols import Frame, Prediction, Prompt
from segmenter.prompts import FAR_OUTSIDE, Window, WindowConfig, crop, from_grey, paste, window_of
from segmenter.sam3 import Sam3
from segmenter.teacher import Teacher

_ROOM = 2.5
"""Side of the window over the longer side of the first mask's box: vessels move with the heart."""


@dataclass(frozen=True)
class TrackMemory:
    """What is remembered of one object; each step makes a new one."""

    window: Window
    hw: tuple[int, int]
    given: dict[int, Any]
    """Results where a mask was given, by position in the walk."""
    found: dict[int, Any]
    """Results of the last steps, by position in the walk."""
    index: int


class MemoryTracker:
    """Carries a mask along a run of frames by what the model remembers of the frames before."""

    def __init__(self, teacher: Teacher) -> None:
        self._model: Sam3 = teacher.model
        self._windows = teacher.windows

    def start(self, frame: Frame, bitmap: Bool[np.ndarray, "h w"]) -> TrackMemory:
        """A memory that knows this mask on this frame.

        Raises:
            PromptError: the mask is empty or of another size than the frame.
        """
        check_drawn(frame, bitmap)
        window = self._window(bitmap, frame.hw)
        cells = 16 * self._model.config.grid
        grey = np.where(bitmap, np.uint8(255), np.uint8(0))
        mask = torch.from_numpy(crop(grey, window, cells) > 127)[None, None].float()
        with torch.inference_mode():
            out = self._model.remember(
                self._pixels(frame, window),
                {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}},
                0,
                mask.to(self._model.device),
            )
        return TrackMemory(window, frame.hw, {0: out}, {}, 0)

    def step(self, memory: object, frame: Frame) -> tuple[TrackMemory, Prediction]:
        """The memory after the next frame, and the mask on it; score near 0 when it is lost.

        Raises:
            PromptError: the memory is not this tracker's, or the frame has another size.
        """
        if not isinstance(memory, TrackMemory) or memory.hw != frame.hw:
            raise PromptError("this is not the run that was started; start tracking again")
        index = memory.index + 1
        with torch.inference_mode():
            out = self._model.remember(
                self._pixels(frame, memory.window),
                {"cond_frame_outputs": memory.given, "non_cond_frame_outputs": memory.found},
                index,
            )
            logits = paste(
                out["pred_masks"][0, 0].float().clamp(min=FAR_OUTSIDE), memory.window, frame.hw
            )
            score = float(out["object_score_logits"].float().sigmoid())
        kept = {
            position: result
            for position, result in memory.found.items()
            if position > index - self._model.tracker.num_maskmem
        }
        after = TrackMemory(memory.window, memory.hw, memory.given, {**kept, index: out}, index)
        return after, Prediction(bitmap=logits > 0, score=score, logits=logits)

    def _window(self, bitmap: Bool[np.ndarray, "h w"], hw: tuple[int, int]) -> Window:
        x1, y1, x2, y2 = (float(value) for value in masks.box_of(bitmap))
        roomy = WindowConfig(
            whole_image=self._windows.whole_image,
            expand=_ROOM,
            smallest=self._windows.smallest,
            quantum=self._windows.quantum,
        )
        return window_of(Prompt(box_xyxy=(x1, y1, x2, y2)), hw, roomy)

    def _pixels(self, frame: Frame, window: Window) -> torch.Tensor:
        sizes = self._model.config
        square = crop(frame.pixels, window, sizes.side_px)[None]
        return from_grey(square, standardised=sizes.standardised).to(self._model.device)
