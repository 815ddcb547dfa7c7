"""Text burned into pixels: where it is, how sure that is, and painting it over.

Letters stand in lines: several islands of sharp ink (angio/letters.py) side by side, of one height
and one grey. Knows no files, no rulings and no DICOM.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8, UInt16

from angio.letters import Box, Ink, inks

LETTER_PX = (5, 80)
"""Least and greatest height of a letter."""
FILLED = 0.2
"""Least share of a letter's box that is sharp ink."""
WIDE = 1.8
"""A wider island is several letters that touch."""
GAP_HEIGHTS = 1.8
"""Greatest gap between letters of a line, in heights."""
WORD_GAP_HEIGHTS = 3.2
"""Likewise between words, whose letters are then of one height and on one line."""
HEIGHT_RATIO = 2.5
"""Letters of a line differ by less than this factor in height."""
ISLANDS_MAX = 6000
"""A picture with more islands is noise that no line can be read from."""
REACH_HEIGHTS = 1.6
"""What is sharp and this near to a line's end belongs to it."""
MARGIN_HEIGHTS = (5.0, 0.45)
"""What is added to a line's box on each side, across and down: a line may go on where its ground
has nearly its own grey."""
BLOCK_HEIGHTS = (8.0, 4.0)
"""Shorter lines this near, across and down, belong to the same block of text."""
BORDER = 0.2
"""Overlays stand within this share of the picture's sides."""
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


@dataclass(frozen=True)
class _Line:
    """Letters side by side."""

    box: Box
    letters: int
    islands: int
    height_px: float
    height_spread: float
    """Standard deviation of the letters' heights, in heights."""
    baseline_spread: float
    """Standard deviation of their lower or upper ends, whichever is straighter, in heights."""
    ink_spread: float
    """Median deviation of the letters' grey, in parts of their contrast."""
    faint: bool

    @property
    def readable(self) -> bool:
        """Whether it is enough to suspect text; fewer or fainter letters must be more regular."""
        if self.letters < 3:
            return False
        if self.faint:
            return (
                self.letters >= 4
                and self.islands >= 2
                and self.height_px >= 6
                and self.height_spread <= 0.4
                and self.baseline_spread <= 0.2
                and self.ink_spread <= 0.2
            )
        if self.letters == 3:
            return (
                self.height_spread <= 0.5
                and self.baseline_spread <= 0.22
                and self.ink_spread <= 0.22
            )
        return self.height_spread <= 0.75 and self.baseline_spread <= 0.4

    @property
    def regular(self) -> bool:
        """Whether it is text beyond doubt."""
        return (
            self.letters >= 4
            and self.islands >= 3
            and self.height_spread <= 0.4
            and self.baseline_spread <= 0.25
            and self.ink_spread <= 0.2
        )

    @property
    def supporting(self) -> bool:
        """Whether it counts as text beside a readable line."""
        return self.height_spread < 0.5 and self.baseline_spread < 0.25 and self.ink_spread < 0.25


def _letters(ink: Ink, number: int, box: Box) -> int:
    """How many letters an island may be; 0 when it is none."""
    x1, y1, x2, y2 = box
    height, width = y2 - y1 + 1, x2 - x1 + 1
    if not LETTER_PX[0] <= height <= LETTER_PX[1] or width < 2:
        return 0
    own = ink.numbers[y1 : y2 + 1, x1 : x2 + 1] == number
    if own.mean() < FILLED:
        return 0
    if width <= WIDE * height:
        return 1
    strokes = (np.diff(own.astype(np.int8), axis=1, prepend=0) == 1).sum(axis=1).mean()
    return round(1.2 * width / height) if strokes >= 0.9 * width / height else 0


def _rows(islands: list[tuple[Box, int]]) -> list[list[tuple[Box, int]]]:
    """Islands that stand side by side at one height."""
    islands = sorted(islands)
    parent = list(range(len(islands)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for left, (one, _) in enumerate(islands):
        height = one[3] - one[1] + 1
        for right in range(left + 1, len(islands)):
            other = islands[right][0]
            gap, tall = other[0] - one[2], other[3] - other[1] + 1
            if gap > WORD_GAP_HEIGHTS * LETTER_PX[1]:
                break
            low, high = min(height, tall), max(height, tall)
            shared = min(one[3], other[3]) - max(one[1], other[1]) + 1
            letters = gap <= GAP_HEIGHTS * high and shared >= 0.5 * low
            words = gap <= WORD_GAP_HEIGHTS * high and shared >= 0.85 * high
            if words or (letters and high <= HEIGHT_RATIO * low):
                parent[root(left)] = root(right)
    rows: dict[int, list[tuple[Box, int]]] = {}
    for index, island in enumerate(islands):
        rows.setdefault(root(index), []).append(island)
    return list(rows.values())


def _line(ink: Ink, row: list[tuple[Box, int]]) -> _Line:
    boxes = np.array([box for box, _ in row])
    heights = boxes[:, 3] - boxes[:, 1] + 1
    height = float(np.median(heights))
    greys, contrasts = [], []
    for x1, y1, x2, y2 in boxes:
        inside = ink.values[y1 : y2 + 1, x1 : x2 + 1]
        grey = float(np.percentile(inside[ink.sharp[y1 : y2 + 1, x1 : x2 + 1]], 75))
        around = ink.values[max(0, y1 - 2) : y2 + 3, max(0, x1 - 2) : x2 + 3]
        greys.append(grey)
        contrasts.append(grey - float(np.percentile(around, 15)))
    deviation = np.median(np.abs(np.array(greys) - np.median(greys)))
    return _Line(
        box=_around([box for box, _ in row]),
        letters=sum(count for _, count in row),
        islands=len(row),
        height_px=height,
        height_spread=float(heights.std() / height),
        baseline_spread=float(min(boxes[:, 3].std(), boxes[:, 1].std()) / height),
        ink_spread=float(deviation / max(1.0, float(np.median(contrasts)))),
        faint=ink.faint,
    )


def _around(boxes: Sequence[Box]) -> Box:
    x1, y1, x2, y2 = zip(*boxes, strict=True)
    return int(min(x1)), int(min(y1)), int(max(x2)), int(max(y2))


def _pictures(
    frames: UInt8[np.ndarray, "t h w"],
) -> Iterator[tuple[UInt8[np.ndarray, "h w"], tuple[bool, ...]]]:
    """What is looked at, and for which ink.

    Burned-in text stands still: the mean of a run has less noise and blurred anatomy. Text on some
    frames only stays in the greatest and the least value over the run.
    """
    if len(frames) == 1:
        yield frames[0], (True, False)
        return
    yield np.rint(frames.mean(axis=0)).astype(np.uint8), (True, False)
    yield frames.max(axis=0), (True,)
    yield frames.min(axis=0), (False,)


def find_text(frames: UInt8[np.ndarray, "t h w"]) -> tuple[TextBox, ...]:
    """Boxes of what looks like drawn letters on any frame of a run.

    Certain are regular lines near the picture's sides, where overlays stand, and short lines beside
    them; everything else is for a person to look at.
    """
    hw = int(frames.shape[1]), int(frames.shape[2])
    if min(hw) < LETTER_PX[0]:
        return ()
    lines: list[_Line] = []
    specks: list[Box] = []
    for picture, polarities in _pictures(frames):
        for ink in inks(picture, polarities):
            if len(ink.boxes) > ISLANDS_MAX:
                continue
            if ink.faint:
                specks += [box for box in ink.boxes if max(box[2] - box[0], box[3] - box[1]) >= 2]
            counted = [
                (box, count)
                for number, box in enumerate(ink.boxes, start=1)
                if (count := _letters(ink, number, box))
            ]
            lines += [
                _line(ink, row) for row in _rows(counted) if sum(count for _, count in row) >= 2
            ]
    readable = [line for line in lines if line.readable]
    if not readable:
        return ()
    beside = [
        line
        for line in lines
        if not line.readable and line.supporting and any(_same_block(line, r) for r in readable)
    ]
    near = np.array(specks).reshape(-1, 4)
    clear = [_grown(line, near, hw) for line in readable if line.regular and _by_a_side(line, hw)]
    found = []
    for line in readable:
        box = _grown(line, near, hw)
        certain = any(_meet(box, other) for other in clear)
        regular = "regular" if line.regular else "irregular"
        place = "near a side" if _by_a_side(line, hw) else "inside the picture"
        found.append(TextBox(box, certain, f"{line.letters} {regular} letters {place}"))
    for line in beside:
        found.append(TextBox(_grown(line, near, hw), True, "letters beside a line of text"))
    return tuple(dict.fromkeys(found))


def _same_block(line: _Line, other: _Line) -> bool:
    height = other.height_px
    across, down = BLOCK_HEIGHTS[0] * height, BLOCK_HEIGHTS[1] * height
    return (
        0.6 <= line.height_px / height <= 1.7
        and line.box[0] <= other.box[2] + across
        and line.box[2] >= other.box[0] - across
        and line.box[1] <= other.box[3] + down
        and line.box[3] >= other.box[1] - down
    )


def _by_a_side(line: _Line, hw: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = line.box
    return (
        min(y1, hw[0] - 1 - y2) <= BORDER * hw[0] or min(x1, hw[1] - 1 - x2) <= BORDER * hw[1] / 2
    )


def _grown(line: _Line, specks: np.ndarray, hw: tuple[int, int]) -> Box:
    """The box of a line with the points, accents and broken letters around it, and a margin."""
    height = line.height_px
    x1, y1, x2, y2 = line.box
    top, bottom = y1 - height, y2 + height
    if len(specks):
        small = specks[
            (specks[:, 3] - specks[:, 1] <= 1.8 * height)
            & (specks[:, 2] - specks[:, 0] <= 3 * height)
            & (specks[:, 1] <= y2 + 0.4 * height)
            & (specks[:, 3] >= y1 - 0.4 * height)
        ]
        reach = REACH_HEIGHTS * height + 3
        for _ in range(3):
            near = small[(small[:, 0] <= x2 + reach) & (small[:, 2] >= x1 - reach)]
            if not len(near):
                break
            x1, x2 = min(x1, int(near[:, 0].min())), max(x2, int(near[:, 2].max()))
            y1 = int(max(top, min(y1, near[:, 1].min())))
            y2 = int(min(bottom, max(y2, near[:, 3].max())))
    across, down = (round(share * height) for share in MARGIN_HEIGHTS)
    return (
        max(0, x1 - across - 3),
        max(0, y1 - down - 2),
        min(hw[1] - 1, x2 + across + 3),
        min(hw[0] - 1, y2 + down + 2),
    )


def merged(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """The same area in as few boxes as overlap allows."""
    left = sorted(set(boxes))
    done = False
    while not done:
        done = True
        for first in left:
            other = next((box for box in left if box != first and _meet(first, box)), None)
            if other is not None:
                joined = _around([first, other])
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
