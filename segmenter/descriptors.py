"""What a picture looks like to the teacher's encoder, as one short vector. Knows no files.

Vectors of two pictures are near where the encoder sees much the same in them.
"""

import numpy as np
import torch
from jaxtyping import Float32

from casebook.protocols import Frame, Prompt
from segmenter.prompts import Window, crop, from_grey, window_of
from segmenter.teacher import Teacher

METHOD = "mean and spread of the last feature map, 1"
"""Name and version of the description: vectors of another are not comparable."""


def window_seen(teacher: Teacher, frame: Frame, prompt: Prompt | None) -> Window:
    """The part of a frame the teacher looks at for a prompt; the whole frame without one."""
    return window_of(prompt or Prompt(), frame.hw, teacher.windows)


def descriptor(teacher: Teacher, frame: Frame, window: Window) -> Float32[np.ndarray, " d"]:
    """Mean and standard deviation of each feature over a window, each half of length 1."""
    with torch.inference_mode():
        sizes = teacher.model.config
        square = crop(frame.pixels, window, sizes.side_px)[None]
        pixels = from_grey(square, standardised=sizes.standardised)
        features = teacher.model.trunk(pixels.to(teacher.model.device))[0].float().flatten(1)
        halves = (features.mean(dim=1), features.std(dim=1, correction=0))
        found = torch.cat([half / half.norm().clamp_min(1e-12) for half in halves])
    return np.ascontiguousarray(found.cpu().numpy(), dtype=np.float32)
