"""Which frame of a run to annotate: full of contrast, the heart still, the edges sharp. No model.

Frames are looked at one by one at about 256 px, so that the length of a
run does not matter. Knows no files.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt16
from scipy import ndimage

from casebook.documents import Document
from casebook.errors import DataError

METHOD = "filling × stillness × sharpness, 1"
"""Name and version of the choice."""

NO_INFLOW_NOTE = "no contrast is seen to come or go; look at the chosen frame"
_SIDE_PX = 256
"""Frames are compared at about this size: vessels stay visible, noise does not."""
_BACKGROUND_PX = 8.0
_BORDER = 0.04
"""Share of each side that is not looked at: collimators and frames."""
_DARK_SHARE = 0.06
"""Share of the picture that a filled tree covers at least."""
_WEIGHTS = (0.7, 0.2, 0.1)
"""Of filling alone, of stillness, of sharpness."""
_CONTRAST_MIN = 0.01
"""Rise of darkness over a run, as a share of brightness, below which no contrast came in."""


class FrameChoice(Document):
    """A chosen frame and why."""

    frame: int
    """Counted from 0."""
    score: float
    """0 to 1; 1 would be the fullest, stillest and sharpest frame of the run at once."""
    filling: float
    """Contrast in the vessels, as a share of the fullest frame's."""
    stillness: float
    """1 where nothing moves, 0 where most does, among the filled frames of the run."""
    sharpness: float
    """Steepness of edges as a share of the run's best."""
    inflow_seen: bool
    """Contrast comes or goes during the run; without that, a person should look."""

    def __str__(self) -> str:
        """For instance `frame 14, score 0.93 (filling 0.98, stillness 0.9, sharpness 0.8)`."""
        return (
            f"frame {self.frame}, score {self.score:.2f} (filling {self.filling:.2f}, stillness "
            f"{self.stillness:.2f}, sharpness {self.sharpness:.2f})"
        )


@dataclass(frozen=True)
class _Seen:
    """What is measured on every frame of a run."""

    depth: Float64[np.ndarray, " t"]
    moved: Float64[np.ndarray, " t"]
    edges: Float64[np.ndarray, " t"]


def _reduced(pixels: UInt16[np.ndarray, "h w"]) -> Float32[np.ndarray, "i j"]:
    step = max(1, min(round(max(pixels.shape) / _SIDE_PX), *pixels.shape))
    height, width = (extent // step * step for extent in pixels.shape)
    blocks = pixels[:height, :width].reshape(height // step, step, width // step, step)
    small = np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)
    rows, columns = (int(extent * _BORDER) for extent in small.shape)
    return small[rows : small.shape[0] - rows, columns : small.shape[1] - columns]


def _measure(frames: Iterable[UInt16[np.ndarray, "h w"]]) -> _Seen:
    depths, moves, edges = [], [], []
    before = None
    for pixels in frames:
        small = _reduced(pixels)
        logs = np.log(np.maximum(small, 1.0))
        fine = ndimage.gaussian_filter(logs, 1.0)
        depth = ndimage.gaussian_filter(logs, _BACKGROUND_PX) - fine
        kept = max(1, int(_DARK_SHARE * depth.size))
        dark = np.partition(depth.ravel(), depth.size - kept)[-kept:]
        depths.append(float(dark.mean()))
        steep = ndimage.gaussian_gradient_magnitude(logs, 1.0)
        edges.append(float(np.partition(steep.ravel(), steep.size - kept)[-kept:].mean()))
        moves.append(0.0 if before is None else float(np.abs(fine - before).mean()))
        before = fine
    return _Seen(np.array(depths), np.array(moves), np.array(edges))


def choose_frame(
    frames: Iterable[UInt16[np.ndarray, "h w"]], numbers: Iterable[int] | None = None
) -> FrameChoice:
    """The frame of a run that shows its vessels best.

    Filling is the darkness of thin dark structures against their surroundings, less that of the
    emptiest frame: a catheter, ribs and wires are there all the time and so count for nothing.
    Stillness is how little changes from the frame before and to the frame after. A run that no
    contrast flows into or out of has no emptiest frame to compare with, and is judged by the
    darkness alone.

    Args:
        frames: Upright stored values in the order of time, at least one.
        numbers: What each frame is called; 0, 1, 2 … when not given.

    Raises:
        DataError: there is no frame, or every frame is of one value.
    """
    seen = _measure(frames)
    names = list(range(len(seen.depth))) if numbers is None else list(numbers)
    if not names or float(seen.edges.max()) <= 0:
        raise DataError(
            "every frame is of one grey value; there is nothing to see in this run; leave it out"
        )
    depth = seen.depth
    rise = float(depth.max() - depth.min())
    floor = float(depth.min()) if rise >= _CONTRAST_MIN else 0.0
    filling = np.clip((depth - floor) / max(float(depth.max()) - floor, 1e-9), 0.0, 1.0)
    after = np.append(seen.moved[1:], seen.moved[-1:])
    before = seen.moved.copy()
    before[0] = after[0]
    moved = (before + after) / 2
    filled = moved[filling >= 0.5]
    restless = np.clip((moved - filled.min()) / max(float(np.ptp(filled)), 1e-3), 0.0, 1.0)
    sharp = seen.edges / seen.edges.max()
    scores = filling * (
        _WEIGHTS[0] + _WEIGHTS[1] * (1.0 - restless) + _WEIGHTS[2] * sharp
    )  # fmt: skip
    best = int(np.argmax(scores))
    return FrameChoice(
        frame=names[best],
        score=round(float(scores[best]), 3),
        filling=round(float(filling[best]), 3),
        stillness=round(float(1.0 - restless[best]), 3),
        sharpness=round(float(sharp[best]), 3),
        inflow_seen=rise >= _CONTRAST_MIN,
    )
