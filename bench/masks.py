"""Mask encoding against CVAT's own SDK on the same masks.

`encode_ratio_vs_cvat_sdk`: seconds of cvat_sdk.masks.encode_mask over ours, for the same points.
`coco_ratio_vs_datumaro`: the same for COCO run lengths, where datumaro is installed.
"""

import importlib
import importlib.util

import numpy as np
from cvat_sdk.masks import encode_mask
from jaxtyping import Bool

from bench.harness import run, seconds
from casebook import masks

AIMS = {"encode_ratio_vs_cvat_sdk": ">= 5", "coco_ratio_vs_datumaro": ">= 10"}


def vessels(count: int, side: int = 512) -> list[Bool[np.ndarray, "h w"]]:
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


def measure(quick: bool) -> dict[str, float | None]:
    """The ratios, on 2 000 masks (200 when quick)."""
    sample = vessels(200 if quick else 2_000)
    boxes = [masks.box_of(bitmap) for bitmap in sample]
    for bitmap, (x1, y1, x2, y2) in zip(sample[:20], boxes[:20], strict=True):
        theirs = [int(value) for value in encode_mask(bitmap, [x1, y1, x2 + 1, y2 + 1])]
        if theirs != masks.to_cvat(bitmap):
            raise AssertionError("our CVAT form differs from the SDK's")
    repeats = 1 if quick else 3
    sdk = seconds(
        lambda: [
            encode_mask(bitmap, [x1, y1, x2 + 1, y2 + 1])
            for bitmap, (x1, y1, x2, y2) in zip(sample, boxes, strict=True)
        ],
        repeats=repeats,
    )
    ours = seconds(lambda: [masks.to_cvat(bitmap) for bitmap in sample], repeats=repeats)
    coco = seconds(lambda: [masks.encode(bitmap) for bitmap in sample], repeats=repeats)
    peer = None
    if importlib.util.find_spec("datumaro") is not None:
        tools = importlib.import_module("datumaro.util.mask_tools")
        peer = seconds(lambda: [tools.mask_to_rle(bitmap) for bitmap in sample], repeats=repeats)
    return {
        "encode_ratio_vs_cvat_sdk": sdk / ours,
        "coco_ratio_vs_datumaro": None if peer is None else peer / coco,
        "encode_us_per_mask": 1e6 * ours / len(sample),
    }


if __name__ == "__main__":
    run("masks", measure, AIMS)
