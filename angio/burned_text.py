"""Text burned into pixels: where it is, how sure that is, and painting it over.

Knows no files, no rulings and no DICOM.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8, UInt16
from scipy import ndimage

Box = tuple[int, int, int, int]
"""x1, y1, x2, y2 in px, inclusive."""

EDGE_LEVELS = 60
INK_LEVELS = 40
SURROUNDINGS_PX = 21
LETTER_PX = (5, 40)
LETTERS_MIN = 3
RING_PX = 4
"""Width of the ring around a box whose median paints it over."""


@dataclass(frozen=True)
class TextBox:
    """Something that looks like text."""

    box_xyxy: Box
    certain: bool
    """Whether it may be painted over without a person having looked."""
    reason: str
    """What speaks for text, in words."""


def find_text(frames: UInt8[np.ndarray, "t h w"]) -> tuple[TextBox, ...]:
    """Boxes of what looks like drawn letters in any frame of a run."""
    found = {box for frame in frames for box in text_boxes(frame)}
    return tuple(TextBox(box, False, "sharp letters in a row") for box in sorted(found))


def merged(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The same area in as few boxes as overlap allows."""
    left = sorted(set(boxes))
    done = False
    while not done:
        done = True
        for first in left:
            other = next((box for box in left if box != first and _meet(first, box)), None)
            if other is not None:
                joined = (
                    min(first[0], other[0]),
                    min(first[1], other[1]),
                    max(first[2], other[2]),
                    max(first[3], other[3]),
                )
                left = sorted({*left, joined} - ({first, other} - {joined}))
                done = False
                break
    return tuple(left)


def _meet(a: Box, b: Box) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def paint_over(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"], boxes: Sequence[Box]
) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
    """A copy in which every box has the median of the ring around it; nothing inside stays."""
    if not boxes:
        return pixels
    painted = pixels.copy()
    inside = np.zeros(pixels.shape, dtype=bool)
    for x1, y1, x2, y2 in boxes:
        inside[y1 : y2 + 1, x1 : x2 + 1] = True
    for x1, y1, x2, y2 in boxes:
        rows = slice(max(0, y1 - RING_PX), y2 + 1 + RING_PX)
        columns = slice(max(0, x1 - RING_PX), x2 + 1 + RING_PX)
        ring = pixels[rows, columns][~inside[rows, columns]]
        painted[y1 : y2 + 1, x1 : x2 + 1] = np.median(ring) if ring.size else 0
    return painted


def _strokes(pixels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels at a sharp edge, on the side that differs from the surroundings: ink, not paper."""
    values = pixels.astype(np.float32)
    edges = np.zeros(pixels.shape, dtype=bool)
    across = np.abs(np.diff(values, axis=1)) > EDGE_LEVELS
    down = np.abs(np.diff(values, axis=0)) > EDGE_LEVELS
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    if not edges.any():
        return edges
    apart = np.abs(values - ndimage.uniform_filter(values, SURROUNDINGS_PX))
    return np.asarray(edges & (apart > INK_LEVELS))


def text_boxes(pixels: UInt8[np.ndarray, "h w"]) -> tuple[tuple[int, int, int, int], ...]:
    """Boxes (x1, y1, x2, y2 inclusive) of what looks like drawn letters in a row.

    Letters are small islands of edges sharper than optics allow, several side by side at one
    height. Borders of a collimator are long and straight, noise is not as sharp: neither counts.
    """
    ink = _strokes(pixels)
    if not ink.any():
        return ()
    numbered, _ = ndimage.label(ink, structure=np.ones((3, 3)))
    letters = []
    for island in ndimage.find_objects(numbered):
        rows, columns = island
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if LETTER_PX[0] <= height <= LETTER_PX[1] and 2 <= width <= 2 * LETTER_PX[1]:
            letters.append((columns.start, rows.start, columns.stop - 1, rows.stop - 1))
    lines = []
    for letter in letters:
        height = letter[3] - letter[1] + 1
        middle = (letter[1] + letter[3]) / 2
        line = [
            other
            for other in letters
            if abs((other[1] + other[3]) / 2 - middle) < 0.6 * height
            and abs(other[0] - letter[0]) < 5 * LETTERS_MIN * height
        ]
        if len(line) >= LETTERS_MIN:
            lines.append(
                (
                    min(other[0] for other in line),
                    min(other[1] for other in line),
                    max(other[2] for other in line),
                    max(other[3] for other in line),
                )
            )
    return tuple(sorted(set(lines)))
