"""The student's square: a window of the image around the prompt, and the way back.

Knows no model. Pixel centres have whole coordinates; a window's corner is the outer edge of its
first pixel. The same window serves every later click inside it, so its features are computed once.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from casebook.protocols import Prompt

BOX_MARGIN = 1.75
"""A window's side over the longer side of the box."""
SMALLEST_PX = 64
"""A window is never smaller."""
CLICK_PX = 160
"""Side of the window around a first click, when there is no box."""
STEP_PX = 16
"""Sides are multiples of this, so that a slightly moved box keeps its window's scale."""


@dataclass(frozen=True)
class Window:
    """A square part of an image, in whole px; it may reach over the image's edge."""

    x: int
    """First column."""
    y: int
    """First row."""
    side: int

    def to_square(
        self, points_xy: Float64[np.ndarray, "n 2"], square_px: int
    ) -> Float64[np.ndarray, "n 2"]:
        """Image coordinates as coordinates of the square."""
        scale = square_px / self.side
        corner = np.array([self.x, self.y], dtype=np.float64)
        return np.asarray((points_xy - corner + 0.5) * scale - 0.5, dtype=np.float64)

    def holds(self, x: float, y: float) -> bool:
        """Whether a point of the image lies inside."""
        return (
            self.x - 0.5 <= x <= self.x + self.side - 0.5
            and self.y - 0.5 <= y <= self.y + self.side - 0.5
        )

    def cut(self, pixels: UInt8[np.ndarray, "h w"], square_px: int) -> UInt8[np.ndarray, "s s"]:
        """The window's pixels at the square's size; beyond the image its edge is repeated."""
        part = _cut(pixels, self, "edge")
        if self.side == square_px:
            return part
        image = Image.fromarray(part).resize((square_px, square_px), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.uint8)

    def cut_values(
        self, values: Float32[np.ndarray, "h w"], square_px: int, beyond: float
    ) -> Float32[np.ndarray, "s s"]:
        """The window's part of a map at the square's size; `beyond` outside the image."""
        part = _cut(values, self, "constant", beyond)
        if self.side == square_px:
            return part
        image = Image.fromarray(part).resize((square_px, square_px), Image.Resampling.BILINEAR)
        return np.asarray(image, dtype=np.float32)

    def place(
        self, square: Float32[np.ndarray, "s s"], hw: tuple[int, int], outside: float
    ) -> Float32[np.ndarray, "h w"]:
        """A map of the square at image size; `outside` where the window does not reach."""
        image = Image.fromarray(np.ascontiguousarray(square, dtype=np.float32))
        if square.shape[0] != self.side:
            image = image.resize((self.side, self.side), Image.Resampling.BILINEAR)
        part = np.asarray(image, dtype=np.float32)
        height, width = hw
        placed = np.full(hw, outside, dtype=np.float32)
        x1, y1 = max(self.x, 0), max(self.y, 0)
        x2, y2 = min(self.x + self.side, width), min(self.y + self.side, height)
        if x1 < x2 and y1 < y2:
            placed[y1:y2, x1:x2] = part[y1 - self.y : y2 - self.y, x1 - self.x : x2 - self.x]
        return placed


def _cut(array: np.ndarray, window: Window, mode: str, beyond: float = 0.0) -> np.ndarray:
    height, width = array.shape
    x2, y2 = window.x + window.side, window.y + window.side
    inner = array[
        min(max(window.y, 0), height - 1) : max(min(y2, height), 1),
        min(max(window.x, 0), width - 1) : max(min(x2, width), 1),
    ]
    before_y, before_x = max(-window.y, 0), max(-window.x, 0)
    after_y = window.side - before_y - inner.shape[0]
    after_x = window.side - before_x - inner.shape[1]
    if not (before_y or before_x or after_y or after_x):
        return np.ascontiguousarray(inner)
    padding = ((before_y, after_y), (before_x, after_x))
    if mode == "edge":
        return np.pad(inner, padding, mode="edge")
    return np.pad(inner, padding, constant_values=beyond)


def whole(hw: tuple[int, int]) -> Window:
    """The window that holds the whole image."""
    return Window(0, 0, max(hw))


def window_of(prompt: Prompt, hw: tuple[int, int]) -> Window:
    """The window a prompt is answered in.

    Around the box, else around the first click inside; grown until it holds every click, so that
    the answer depends on the prompt alone and not on what was asked before.

    Args:
        prompt: checked against the image, with a box or a click inside.
        hw: height and width of the image, px.
    """
    clicks = [(float(x), float(y)) for x, y in prompt.points_xy]
    if prompt.box_xyxy is not None:
        x1, y1, x2, y2 = prompt.box_xyxy
        centre = ((x1 + x2) / 2, (y1 + y2) / 2)
        side = max(float(SMALLEST_PX), BOX_MARGIN * max(x2 - x1 + 1, y2 - y1 + 1))
    else:
        inside = prompt.points_xy[prompt.point_labels == 1]
        centre = (float(inside[0][0]), float(inside[0][1]))
        side = float(CLICK_PX)
    window = _fitted(centre, side, hw)
    while not all(window.holds(x, y) for x, y in clicks) and window.side < max(hw):
        window = _fitted(centre, window.side * 1.5, hw)
    return window


def _fitted(centre_xy: tuple[float, float], side: float, hw: tuple[int, int]) -> Window:
    """A window of at least this side around a point, moved into the image where it fits."""
    height, width = hw
    rounded = min(int(-(-side // STEP_PX)) * STEP_PX, max(hw))
    x = round(centre_xy[0] + 0.5 - rounded / 2)
    y = round(centre_xy[1] + 0.5 - rounded / 2)
    x = min(max(x, 0), width - rounded) if rounded <= width else (width - rounded) // 2
    y = min(max(y, 0), height - rounded) if rounded <= height else (height - rounded) // 2
    return Window(x, y, rounded)
