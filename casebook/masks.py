"""Masks in every dress they travel in; no other module knows an encoding.

- COCO: run lengths down the columns of the whole image (uncompressed list, or its ASCII form).
- CVAT's SDK: run lengths along the rows of a box, then the box x1, y1, x2, y2 inclusive.
  Source: cvat-ai/cvat, cvat-sdk/cvat_sdk/masks.py.
- CVAT detector function: the raw 0/1 pixels of the box by row, then the box inclusive.
  Source: cvat-ai/cvat, cvat/apps/lambda_manager/views.py.
- CVAT interactor function: a full two-dimensional list of 0/1.

All runs start with the number of zeros; casebook/run_lengths.py counts them, and
casebook/polygons.py knows outlines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8
from pycocotools import mask as coco

from casebook import run_lengths
from casebook.errors import MaskError
from casebook.run_lengths import Box

MAX_PIXELS = 64 * 1024 * 1024
"""Largest image a mask may claim; larger ones are refused as damaged or hostile."""


@dataclass(frozen=True)
class Mask:
    """A mask as COCO counts; equal masks are equal byte for byte."""

    packed: bytes
    """Run lengths down the columns, zeros first, four bytes each in the machine's order."""
    hw: tuple[int, int]
    """Height and width of the image, in px."""

    def __post_init__(self) -> None:
        """Refuse counts that do not fill the image exactly."""
        height, width = self.hw
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise MaskError(f"mask of {height}×{width} px; expected 1 to {MAX_PIXELS} px in all")
        total_px = int(self.runs.sum(dtype=np.int64))
        if self.runs.size and int(self.runs.min()) < 0:
            raise MaskError("mask has a negative run length")
        if total_px != height * width:
            raise MaskError(
                f"mask runs add up to {total_px} px; the image {height}×{width} has "
                f"{height * width}"
            )

    @property
    def runs(self) -> Int32[np.ndarray, "r"]:
        """Run lengths down the columns, zeros first; not to be written to."""
        return np.frombuffer(self.packed, dtype=np.int32)

    @property
    def counts(self) -> tuple[int, ...]:
        """The same as numbers: COCO's uncompressed counts."""
        return tuple(self.runs.tolist())

    @property
    def area_px(self) -> int:
        """Number of pixels set."""
        return int(self.runs[1::2].sum())

    @cached_property
    def _box(self) -> Box | None:
        return run_lengths.column_box(self.runs, self.hw)

    @property
    def box_xyxy(self) -> Box:
        """The smallest box around the pixels set: x1, y1, x2, y2 in px, inclusive.

        Raises:
            MaskError: nothing is set.
        """
        if self._box is None:
            raise MaskError("mask is empty; it has no box")
        return self._box


def encode(bitmap: Bool[np.ndarray, "h w"]) -> Mask:
    """A bitmap as COCO counts."""
    height, width = bitmap.shape
    if height == 0 or width == 0:
        raise MaskError(f"bitmap of {height}×{width} px; expected at least 1×1")
    if height * width > MAX_PIXELS:
        raise MaskError(f"bitmap of {height}×{width} px; expected at most {MAX_PIXELS} px in all")
    return Mask(run_lengths.of_columns(bitmap).tobytes(), (height, width))


def decode(mask: Mask) -> Bool[np.ndarray, "h w"]:
    """A mask as a bitmap."""
    return run_lengths.from_columns(mask.runs, mask.hw, mask._box)


def box_of(bitmap: Bool[np.ndarray, "h w"]) -> Box:
    """The smallest box around a bitmap: x1, y1, x2, y2 in px, inclusive.

    Raises:
        MaskError: nothing is set.
    """
    box = run_lengths.bounds(bitmap)
    if box is None:
        raise MaskError("mask is empty; it has no box")
    return box


def to_cvat(bitmap: Bool[np.ndarray, "h w"]) -> list[int]:
    """A bitmap as the `points` of a CVAT mask shape.

    Raises:
        MaskError: nothing is set.
    """
    box = box_of(bitmap)
    return [*run_lengths.of_rows(bitmap, box).tolist(), *box]


def cvat_points(mask: Mask) -> list[int]:
    """A mask as the `points` of a CVAT mask shape, without its whole bitmap.

    Raises:
        MaskError: nothing is set.
    """
    box = mask.box_xyxy
    crop = run_lengths.crop_of_columns(mask.runs, mask.hw, box)
    return [*run_lengths.of_flat(crop.reshape(-1)).tolist(), *box]


def _corners(points: Sequence[float | int], hw: tuple[int, int]) -> Box:
    corners = [float(value) for value in points[-4:]]
    if any(value != value or value in (np.inf, -np.inf) for value in corners):
        raise MaskError(f"mask box {corners} is not finite; expected whole pixels")
    if any(value != int(value) for value in corners):
        raise MaskError(f"mask box {corners} has fractions; expected whole pixels")
    x1, y1, x2, y2 = (int(value) for value in corners)
    height, width = hw
    if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
        raise MaskError(f"mask box {x1},{y1},{x2},{y2} is outside the {width}×{height} px image")
    return x1, y1, x2, y2


def from_cvat(points: Sequence[float | int], hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The bitmap of a CVAT mask shape's `points`, checked: the server checks nothing.

    Raises:
        MaskError: too short, box outside the image, runs that do not fill the box.
    """
    if len(points) < 5:
        raise MaskError(f"mask has {len(points)} numbers; expected runs and a box of 4")
    numbers = np.asarray(points, dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise MaskError("mask has numbers that are not finite")
    x1, y1, x2, y2 = _corners(points, hw)
    height, width = y2 - y1 + 1, x2 - x1 + 1
    runs = numbers[:-4]
    if ((runs < 0) | (runs != np.floor(runs)) | (runs > height * width)).any():
        raise MaskError(
            f"mask runs must be whole and not negative, and none over the {height * width} px of "
            "their box"
        )
    bitmap = np.zeros(hw, dtype=bool)
    crop = run_lengths.filled(runs.astype(np.int32), height * width)
    bitmap[y1 : y2 + 1, x1 : x2 + 1] = crop.reshape(height, width)
    return bitmap


def to_detector(bitmap: Bool[np.ndarray, "h w"]) -> list[int]:
    """A bitmap as the `mask` a CVAT detector function answers."""
    x1, y1, x2, y2 = box_of(bitmap)
    crop = bitmap[y1 : y2 + 1, x1 : x2 + 1].astype(np.uint8).reshape(-1)
    return [*crop.tolist(), x1, y1, x2, y2]


def from_detector(points: Sequence[float | int], hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """The bitmap of a detector function's `mask`.

    Raises:
        MaskError: the number of pixels does not fit the box, or the box the image.
    """
    if len(points) < 5:
        raise MaskError(f"mask has {len(points)} numbers; expected pixels and a box of 4")
    x1, y1, x2, y2 = _corners(points, hw)
    height, width = y2 - y1 + 1, x2 - x1 + 1
    pixels = np.asarray(points[:-4])
    if pixels.size != height * width or not np.isin(pixels, (0, 1)).all():
        raise MaskError(f"mask has {pixels.size} pixels; its box has {height * width}, each 0 or 1")
    bitmap = np.zeros(hw, dtype=bool)
    bitmap[y1 : y2 + 1, x1 : x2 + 1] = pixels.reshape(height, width).astype(bool)
    return bitmap


def to_grid(bitmap: Bool[np.ndarray, "h w"]) -> list[list[int]]:
    """A bitmap as the two-dimensional list an interactor function answers."""
    rows: list[list[int]] = bitmap.astype(np.uint8).tolist()
    return rows


def from_grid(grid: Sequence[Sequence[int]]) -> Bool[np.ndarray, "h w"]:
    """The bitmap of an interactor function's full grid.

    Raises:
        MaskError: rows of unequal length or values other than 0 and 1.
    """
    if not grid or len({len(row) for row in grid}) != 1 or not grid[0]:
        raise MaskError("mask grid has no rows or rows of unequal length")
    values = np.asarray(grid)
    if not np.isin(values, (0, 1)).all():
        raise MaskError("mask grid has values other than 0 and 1")
    return values.astype(bool)


def to_coco_rle(mask: Mask) -> str:
    """COCO's compressed ASCII counts."""
    rle = coco.frPyObjects({"counts": list(mask.counts), "size": list(mask.hw)}, *mask.hw)
    text: str = rle["counts"].decode("ascii")
    return text


def from_coco_rle(counts: str | Sequence[int], hw: tuple[int, int]) -> Mask:
    """A mask from COCO counts, compressed text or a plain list.

    Runs of nothing between two others, which some programs write, are joined: equal masks have
    equal counts.

    Raises:
        MaskError: the counts are damaged or do not fill the image.
    """
    runs: Int64[np.ndarray, "r"] | Sequence[int]
    if isinstance(counts, str):
        runs = run_lengths.from_text(counts)
        longest_px = int(np.abs(runs).max(initial=0))
    else:
        runs = counts
        longest_px = max(map(abs, counts), default=0)
    if longest_px > MAX_PIXELS:
        raise MaskError(f"mask has a run of over {MAX_PIXELS} px, the most an image may have")
    numbers = np.asarray(runs, dtype=np.int32)
    mask = Mask(numbers.tobytes(), hw)
    if numbers[1:].all():
        return mask
    return Mask(run_lengths.of_flat(run_lengths.filled(numbers, hw[0] * hw[1])).tobytes(), hw)


def to_grey(bitmap: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """A bitmap as 0/255 pixels, the way mask files are written."""
    return np.where(bitmap, np.uint8(255), np.uint8(0)).astype(np.uint8)
