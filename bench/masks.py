"""Masks against CVAT's SDK and datumaro, all on the same 2 000 bitmaps of 512×512 px.

The mix, drawn once with a fixed seed: 70 % vessel segments (curves of 4 to 12 px, 0.5–2 % of the
picture), 15 % whole trees (12 such curves), 5 % large regions (discs over 20–60 %), 5 % speckled
(a segment with 1 % of all pixels set at random), 3 % one pixel, 2 % empty.

- `encode_ratio_vs_cvat_sdk`: from a bitmap to a CVAT shape's points. Both sides are given the
  bitmap alone and find the box themselves: cvat_sdk.masks.encode_mask(bitmap) against
  masks.to_cvat(bitmap). An empty bitmap is refused by ours (the refusal is timed); the SDK writes
  a box of one unset pixel.
- `encode_ratio_box_given`: the same with the box known to both, which is less than either side's
  work for most callers.
- `coco_ratio_vs_datumaro`: bitmap → COCO run lengths → bitmap again, with area and box, through
  datumaro.util.mask_tools and datumaro's RleMask as its COCO exporter and importer do.
- `coco_encode_ratio_vs_datumaro`: only the first of these steps.

Figures are sums over the whole mix, of processor time (both sides use one thread), taken in turns
of 20 masks so that other load falls on both; answers are compared before anything is timed.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import TypeVar

import numpy as np
from cvat_sdk.masks import encode_mask
from jaxtyping import Bool
from pycocotools import mask as coco

from bench.harness import run
from casebook import masks, run_lengths
from casebook.errors import MaskError

AIMS = {"encode_ratio_vs_cvat_sdk": ">= 5", "coco_ratio_vs_datumaro": ">= 10"}
SIDE_PX = 512
Bitmap = Bool[np.ndarray, "h w"]
T = TypeVar("T")


def vessels(count: int, side: int = SIDE_PX) -> list[Bitmap]:
    """Masks shaped like vessel segments: thick curves of 4 to 12 px."""
    generator = np.random.default_rng(1)
    rows, columns = np.mgrid[0:side, 0:side]
    found = []
    for _ in range(count):
        start, stop = generator.uniform(60, side - 60, size=(2, 2))
        steps = np.linspace(0, 1, 60)[:, None]
        bend = generator.normal(0, 30, size=2) * np.sin(np.pi * steps)
        bitmap = np.zeros((side, side), dtype=bool)
        radius = generator.uniform(2, 6)
        for x, y in start + (stop - start) * steps + bend:
            left, top = max(int(x - radius), 0), max(int(y - radius), 0)
            box = np.s_[top : int(y + radius) + 2, left : int(x + radius) + 2]
            bitmap[box] |= (columns[box] - x) ** 2 + (rows[box] - y) ** 2 <= radius**2
        found.append(bitmap)
    return found


def _region(generator: np.random.Generator) -> Bitmap:
    """A disc over a good part of the picture."""
    rows, columns = np.ogrid[0:SIDE_PX, 0:SIDE_PX]
    radius = SIDE_PX * np.sqrt(generator.uniform(0.2, 0.6) / np.pi)
    y, x = generator.uniform(0.45, 0.55, size=2) * SIDE_PX
    return np.asarray((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


def mix(count: int) -> list[Bitmap]:
    """The bitmaps of the mix, in the order of the module's list."""
    generator = np.random.default_rng(2)
    trees, regions, speckled = round(0.15 * count), round(0.05 * count), round(0.05 * count)
    single, empty = round(0.03 * count), round(0.02 * count)
    n_vessels = count - trees - regions - speckled - single - empty
    found = vessels(n_vessels)
    # Trees are unions of segments drawn already: as good, and quicker to make.
    for _ in range(trees):
        chosen = generator.choice(n_vessels, size=12, replace=False)
        found.append(np.logical_or.reduce([found[index] for index in chosen]))
    found += [_region(generator) for _ in range(regions)]
    for index in range(speckled):
        found.append(found[index] | (generator.random((SIDE_PX, SIDE_PX)) < 0.01))
    for _ in range(single):
        bitmap = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
        bitmap[tuple(generator.integers(0, SIDE_PX, size=2))] = True
        found.append(bitmap)
    return found + [np.zeros((SIDE_PX, SIDE_PX), dtype=bool) for _ in range(empty)]


def _cvat(bitmap: Bitmap) -> list[int] | None:
    try:
        return masks.to_cvat(bitmap)
    except MaskError:
        return None


def _there_and_back(bitmap: Bitmap) -> tuple[Bitmap, int, run_lengths.Box | None]:
    mask = masks.encode(bitmap)
    return masks.decode(mask), mask.area_px, mask.box_xyxy if mask.area_px else None


def _datumaro() -> tuple[Callable[[Bitmap], object], Callable[[Bitmap], Bitmap]]:
    """Datumaro's encoder, and its whole road: exporter's form, importer's form, bitmap."""
    try:
        mask_to_rle = import_module("datumaro.util.mask_tools").mask_to_rle
        rle_mask = import_module("datumaro.components.annotation").RleMask
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"bench.masks measures against datumaro, which is not installed ({error.name}): "
            "pip install -c constraints.txt -e '.[bench]'"
        ) from error

    def there_and_back(bitmap: Bitmap) -> Bitmap:
        told = mask_to_rle(bitmap)
        # As datumaro/plugins/data_formats/coco: exporter.py convert_instance, base.py.
        listed = {
            "counts": [int(count) for count in told["counts"]],
            "size": [int(side) for side in told["size"]],
        }
        read = rle_mask(rle=coco.frPyObjects(listed, *listed["size"]))
        read.get_area()
        read.get_bbox()
        return np.asarray(read.image)

    return mask_to_rle, there_and_back


def _check(sample: list[Bitmap], datumaro: Callable[[Bitmap], Bitmap]) -> None:
    for bitmap in sample:
        if bitmap.any() and [int(value) for value in encode_mask(bitmap)] != _cvat(bitmap):
            raise AssertionError("our CVAT form differs from the SDK's")
        ours, area_px, box = _there_and_back(bitmap)
        same = np.array_equal(ours, bitmap) and np.array_equal(datumaro(bitmap), bitmap)
        if not same or area_px != bitmap.sum() or (box is None) == bitmap.any():
            raise AssertionError("a mask did not come back as it went")


@dataclass(frozen=True)
class _Boxed:
    """A bitmap whose box is known."""

    bitmap: Bitmap
    box: run_lengths.Box

    @property
    def outer(self) -> run_lengths.Box:
        """The box as the SDK wants it: its last corner beyond the mask."""
        x1, y1, x2, y2 = self.box
        return x1, y1, x2 + 1, y2 + 1


def _seconds(
    works: dict[str, Callable[[T], object]], sample: Sequence[T], repeats: int
) -> dict[str, float]:
    """Median seconds of processor time each work takes over the sample, in turns of 20 masks."""
    rounds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        spent = dict.fromkeys(works, 0.0)
        for start in range(0, len(sample), 20):
            part = sample[start : start + 20]
            for name, work in works.items():
                begin = time.process_time()
                for one in part:
                    work(one)
                spent[name] += time.process_time() - begin
        for name, seconds in spent.items():
            rounds[name].append(seconds)
    return {name: median(found) for name, found in rounds.items()}


def measure(quick: bool) -> dict[str, float | None]:
    """The ratios, on 2 000 masks (200 when quick)."""
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    sample = mix(200 if quick else 2_000)
    theirs_encode, theirs_whole = _datumaro()
    _check(sample[:: max(len(sample) // 200, 1)], theirs_whole)
    whole = _seconds(
        {
            "cvat": encode_mask,
            "ours": _cvat,
            "datumaro": theirs_whole,
            "coco": _there_and_back,
            "datumaro_encode": theirs_encode,
            "encode": masks.encode,
        },
        sample,
        repeats=1 if quick else 3,
    )
    boxed = [_Boxed(bitmap, masks.box_of(bitmap)) for bitmap in sample if bitmap.any()]
    given = _seconds(
        {
            "cvat": lambda one: encode_mask(one.bitmap, one.outer),
            "ours": lambda one: [*run_lengths.of_rows(one.bitmap, one.box).tolist(), *one.box],
        },
        boxed,
        repeats=1 if quick else 3,
    )
    return {
        "encode_ratio_vs_cvat_sdk": whole["cvat"] / whole["ours"],
        "coco_ratio_vs_datumaro": whole["datumaro"] / whole["coco"],
        "encode_ratio_box_given": given["cvat"] / given["ours"],
        "coco_encode_ratio_vs_datumaro": whole["datumaro_encode"] / whole["encode"],
        "encode_us_per_mask": 1e6 * whole["ours"] / len(sample),
        "coco_us_per_mask": 1e6 * whole["coco"] / len(sample),
    }


if __name__ == "__main__":
    run("masks", measure, AIMS)
