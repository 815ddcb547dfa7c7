"""The model's square: image px in, square px inside, image px out.

Knows the crop window around a prompt and what pixel values a model sees. Knows no model.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from casebook.cases import View
from casebook.protocols import Prompt
from segmenter.interactive import BOX_END, BOX_START, INSIDE, OUTSIDE

FAR_OUTSIDE = -20.0
"""Logit of pixels the window does not cover."""


class WindowConfig(BaseModel):
    """How large a part of the image the model sees around a prompt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    whole_image: bool = False
    """Always the whole image: one embedding serves every prompt."""
    expand: float = Field(1.35, ge=1)
    """Side of the window over the longer side of the box."""
    smallest: float = Field(0.16, gt=0, le=1)
    """Smallest window, as a share of the image's longer side."""
    click: float = Field(0.28, gt=0, le=1)
    """Window around a first click, as a share of the image's longer side."""
    quantum: float = Field(1 / 32, gt=0)
    """Windows start and end on multiples of this share, so that small moves reuse one."""
    zoom: bool = False
    """Ask a second time in a window around the prompt's box, or the first answer, where that is
    clearly smaller than the first: one more embedding, for finer cells."""
    tile: float | None = Field(None, ge=0.1, lt=1)
    """Concepts are looked for in overlapping squares of this share of the image's longer side, and
    answered by their dense maps put together; in the whole image when absent."""


ZOOM_SHARE = 0.75
"""A second window larger than this share of the first would gain next to nothing."""


@dataclass(frozen=True)
class Window:
    """A square of the image, in whole px; it may reach over the image's edge."""

    x: int
    """Its first column."""
    y: int
    """Its first row."""
    size_px: int

    def contains(self, x: float, y: float) -> bool:
        """Whether a point in image px lies in the window."""
        return (
            self.x - 0.5 <= x < self.x + self.size_px - 0.5
            and self.y - 0.5 <= y < self.y + self.size_px - 0.5
        )


def worded(concept: str, view: View | None) -> str:
    """A concept with the view's angles in words: `mid RCA, LAO 38 cranial 0`; none when unknown."""
    return concept if view is None else f"{concept}, {view}"


def whole_window(hw: tuple[int, int]) -> Window:
    """The square that holds the whole image, which is centred in it."""
    height, width = hw
    size = max(height, width)
    return Window((width - size) // 2, (height - size) // 2, size)


def place_of(window: Window, hw: tuple[int, int]) -> tuple[float, float, float]:
    """Middle x and y of a window and half its side; a frame's longer side goes from -1 to 1."""
    half = max(hw) / 2
    middle = window.size_px / 2
    return (
        (window.x + middle - hw[1] / 2) / half,
        (window.y + middle - hw[0] / 2) / half,
        middle / half,
    )


def window_of(prompt: Prompt, hw: tuple[int, int], config: WindowConfig) -> Window:
    """The window a prompt is answered in.

    With a box it is set by the box; without one by the first positive click alone, so that later
    clicks find the same window. Clicks outside enlarge it: the result depends on nothing else.
    """
    longer = max(hw)
    if config.whole_image or (prompt.box_xyxy is None and not len(prompt.points_xy)):
        return whole_window(hw)
    quantum = max(1, round(config.quantum * longer))
    if prompt.box_xyxy is not None:
        x1, y1, x2, y2 = prompt.box_xyxy
        centre = ((x1 + x2) / 2, (y1 + y2) / 2)
        wanted = max(config.smallest * longer, config.expand * (max(x2 - x1, y2 - y1) + 1))
    else:
        first = prompt.points_xy[prompt.point_labels == 1][0]
        centre = (float(first[0]), float(first[1]))
        wanted = config.click * longer
    window = _square(centre, wanted, quantum, hw)
    points = [(float(x), float(y)) for x, y in prompt.points_xy]
    while not all(window.contains(x, y) for x, y in points) and window.size_px < longer:
        wanted = 1.25 * window.size_px
        outside = [point for point in points if not window.contains(*point)]
        low = (min(centre[0], *(x for x, _ in outside)), min(centre[1], *(y for _, y in outside)))
        high = (max(centre[0], *(x for x, _ in outside)), max(centre[1], *(y for _, y in outside)))
        middle = ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2)
        reach = 2 * max(high[0] - middle[0], high[1] - middle[1]) + 4 * quantum
        window = _square(middle, max(wanted, reach), quantum, hw)
    return window


def zoomed_window(
    prompt: Prompt,
    answer_xyxy: tuple[float, float, float, float] | None,
    hw: tuple[int, int],
    config: WindowConfig,
) -> Window | None:
    """The window of a second look; None where none is wanted or it would show little more.

    With a box it is the box's own; without one it holds the first answer and every click.

    Args:
        answer_xyxy: The box of the first answer; None when that was empty.
    """
    box = prompt.box_xyxy if prompt.box_xyxy is not None else answer_xyxy
    if not config.zoom or box is None:
        return None
    if prompt.box_xyxy is None:
        corners = np.concatenate([np.array(box).reshape(2, 2), prompt.points_xy])
        low, high = corners.min(axis=0), corners.max(axis=0)
        box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    close = config.model_copy(update={"whole_image": False})
    around = Prompt(prompt.points_xy, prompt.point_labels, box)
    window = window_of(around, hw, close)
    first = window_of(prompt, hw, config)
    return window if window.size_px <= ZOOM_SHARE * first.size_px else None


def _square(
    centre_xy: tuple[float, float], wanted_px: float, quantum: int, hw: tuple[int, int]
) -> Window:
    """A quantised square around a point, moved into the image where it fits."""
    longer = max(hw)
    size = min(longer, math.ceil(wanted_px / quantum) * quantum)
    if size == longer:
        return whole_window(hw)
    starts = []
    for centre, extent in zip(centre_xy, (hw[1], hw[0]), strict=True):
        start = round((centre + 0.5 - size / 2) / quantum) * quantum
        fits = size <= extent
        starts.append(min(max(start, 0), extent - size) if fits else (extent - size) // 2)
    return Window(starts[0], starts[1], size)


def crop(
    pixels: UInt8[np.ndarray, "h w"], window: Window, side_px: int
) -> UInt8[np.ndarray, "s s"]:
    """The window's pixels at the model's square; edge pixels are repeated beyond the image."""
    cut = _cut(pixels, window)
    image = Image.fromarray(cut).resize((side_px, side_px), Image.Resampling.BILINEAR)
    return np.array(image)


def window_pixels(
    pixels: UInt8[np.ndarray, "h w"], window: Window, side_px: int, *, standardised: bool
) -> Float[Tensor, "1 3 s s"]:
    """What a model sees of a window of a frame."""
    return from_grey(crop(pixels, window, side_px)[None], standardised=standardised)


def crop_mask(
    bitmap: Bool[np.ndarray, "h w"], window: Window, side_px: int
) -> Bool[np.ndarray, "s s"]:
    """A window of a mask at any square; beyond the image there is no object."""
    grey = np.where(bitmap, np.uint8(255), np.uint8(0))
    height, width = bitmap.shape
    rows = np.arange(window.y, window.y + window.size_px)
    columns = np.arange(window.x, window.x + window.size_px)
    cut = grey[np.clip(rows, 0, height - 1)[:, None], np.clip(columns, 0, width - 1)[None, :]]
    cut[(rows < 0) | (rows >= height)] = 0
    cut[:, (columns < 0) | (columns >= width)] = 0
    image = Image.fromarray(cut).resize((side_px, side_px), Image.Resampling.BILINEAR)
    return np.asarray(image) > 127


def crop_logits(
    logits: Float32[np.ndarray, "h w"], window: Window, side_px: int
) -> Float32[np.ndarray, "s s"]:
    """A window of an earlier answer, at any square."""
    image = Image.fromarray(_cut(logits, window))
    return np.array(image.resize((side_px, side_px), Image.Resampling.BILINEAR))


def _cut(values: np.ndarray, window: Window) -> np.ndarray:
    height, width = values.shape
    rows = np.clip(np.arange(window.y, window.y + window.size_px), 0, height - 1)
    columns = np.clip(np.arange(window.x, window.x + window.size_px), 0, width - 1)
    return np.ascontiguousarray(values[rows[:, None], columns[None, :]])


def to_square(
    points_xy: Float64[np.ndarray, "n 2"], window: Window, side_px: int
) -> Float64[np.ndarray, "n 2"]:
    """Points of the image in px of the model's square; pixel centres are whole in both."""
    origin = np.array([window.x, window.y], dtype=np.float64)
    return (points_xy + 0.5 - origin) * (side_px / window.size_px) - 0.5


def to_image(
    points_xy: Float64[np.ndarray, "n 2"], window: Window, side_px: int
) -> Float64[np.ndarray, "n 2"]:
    """Points of the model's square in image px."""
    origin = np.array([window.x, window.y], dtype=np.float64)
    return (points_xy + 0.5) * (window.size_px / side_px) - 0.5 + origin


def prompt_points(
    prompt: Prompt, window: Window, side_px: int
) -> tuple[Float64[np.ndarray, "n 2"], Int64[np.ndarray, " n"]]:
    """Box corners and clicks in the model's square, with the kind of each."""
    points = [prompt.points_xy]
    kinds = [np.where(prompt.point_labels == 1, INSIDE, OUTSIDE).astype(np.int64)]
    if prompt.box_xyxy is not None:
        x1, y1, x2, y2 = prompt.box_xyxy
        points.insert(0, np.array([[x1, y1], [x2, y2]], dtype=np.float64))
        kinds.insert(0, np.array([BOX_START, BOX_END], dtype=np.int64))
    return to_square(np.concatenate(points), window, side_px), np.concatenate(kinds)


def paste(
    logits: Float[Tensor, "m m"], window: Window, hw: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """Mask logits at image size, `FAR_OUTSIDE` where the window does not reach."""
    height, width = hw
    grown = F.interpolate(
        logits[None, None].float(),
        (window.size_px, window.size_px),
        mode="bilinear",
        align_corners=False,
    )[0, 0].numpy(force=True)
    out = np.full(hw, FAR_OUTSIDE, dtype=np.float32)
    top, left = max(window.y, 0), max(window.x, 0)
    bottom = min(window.y + window.size_px, height)
    right = min(window.x + window.size_px, width)
    out[top:bottom, left:right] = grown[
        top - window.y : bottom - window.y, left - window.x : right - window.x
    ]
    return out


def normalised(
    squares: UInt8[Tensor, "b s s"], *, standardised: bool = True
) -> Float[Tensor, "b 3 s s"]:
    """Grey squares as the three channels a model reads.

    Args:
        standardised: Each square with mean 0 and deviation 1, so that contrast and exposure, which
            vary between recordings, matter little; else -1 to 1, as the released weights learnt.
    """
    values = squares.float()
    if not standardised:
        return (values / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)
    mean = values.mean(dim=(1, 2), keepdim=True)
    deviation = values.std(dim=(1, 2), keepdim=True).clamp(min=4.0)
    return ((values - mean) / deviation)[:, None].expand(-1, 3, -1, -1)


def from_grey(
    squares: UInt8[np.ndarray, "b s s"], *, standardised: bool = True
) -> Float[Tensor, "b 3 s s"]:
    """Cropped squares as a model's input; see `normalised`."""
    return normalised(torch.from_numpy(np.ascontiguousarray(squares)), standardised=standardised)
