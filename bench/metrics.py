"""Metrics of two masks against MONAI and scikit-image, on the same masks and with equal answers.

The masks are 512² and hold one thin vessel each, bent, 4 to 12 px wide; its partner is the same
vessel shifted by up to 3 px and grown or shrunk by one. Each peer gets what it takes, a float
tensor of one image and one class, made before the clock starts. `*_ratio_vs_monai`: its seconds
over ours; `cldice_ratio_vs_skimage`: the centreline Dice by `skimage.morphology.skeletonize` on
whole masks over ours.
"""

import importlib
from collections.abc import Callable, Sequence
from itertools import starmap

import numpy as np
from jaxtyping import Bool
from scipy import ndimage
from skimage.morphology import skeletonize

from bench.harness import run, seconds
from casebook import metrics

AIMS = {
    "iou_ratio_vs_monai": ">= 1",
    "hd95_ratio_vs_monai": ">= 1",
    "surface_dice_ratio_vs_monai": ">= 1",
    "cldice_ratio_vs_skimage": ">= 1",
}
COUNT, QUICK_COUNT = 60, 6
TOLERANCE_PX = 2.0
Bitmap = Bool[np.ndarray, "h w"]


def _vessel(generator: np.random.Generator, side: int = 512) -> Bitmap:
    """A bent vessel from one place of the picture to another."""
    start, stop = generator.uniform(60, side - 60, size=(2, 2))
    steps = np.linspace(0, 1, 200)[:, None]
    bend = generator.normal(0, 30, size=2) * np.sin(np.pi * steps)
    line = np.clip(np.rint(start + (stop - start) * steps + bend), 16, side - 17).astype(np.int64)
    middle = np.ones((side, side), dtype=bool)
    middle[line[:, 0], line[:, 1]] = False
    return np.asarray(ndimage.distance_transform_edt(middle) <= generator.uniform(2, 6))


def pairs(count: int) -> list[tuple[Bitmap, Bitmap]]:
    """Vessels and what a model might have drawn of them."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(count):
        truth = _vessel(generator)
        near = np.roll(truth, generator.integers(-3, 4, 2), axis=(0, 1))
        change = (ndimage.binary_dilation, ndimage.binary_erosion)[int(generator.integers(2))]
        found.append((np.asarray(change(near)), truth))
    return found


def whole_cldice(predicted: Bitmap, truth: Bitmap) -> float:
    """Centreline Dice from skeletons of whole masks, written down plainly."""
    line_p, line_t = skeletonize(predicted), skeletonize(truth)
    precision = (line_p & truth).sum() / line_p.sum()
    sensitivity = (line_t & predicted).sum() / line_t.sum()
    both = precision + sensitivity
    return float(2 * precision * sensitivity / both) if both else 0.0


def _ratio(
    ours: Callable[[Bitmap, Bitmap], float],
    peer: Callable[..., float],
    sample: list[tuple[Bitmap, Bitmap]],
    theirs: Sequence[tuple[object, ...]],
    repeats: int,
) -> float:
    """Seconds of the peer over ours, after their answers were compared."""
    mine = list(starmap(ours, sample))
    others = list(starmap(peer, theirs))
    np.testing.assert_allclose(mine, others, rtol=1e-5, atol=1e-5)
    spent = seconds(lambda: list(starmap(peer, theirs)), repeats=repeats)
    return spent / seconds(lambda: list(starmap(ours, sample)), repeats=repeats)


def measure(quick: bool) -> dict[str, float | None]:
    """The ratios, on 60 pairs of masks (6 when quick)."""
    monai = importlib.import_module("monai.metrics")
    torch = importlib.import_module("torch")
    sample = pairs(QUICK_COUNT if quick else COUNT)
    tensors = [
        tuple(torch.from_numpy(bitmap[None, None]).float() for bitmap in pair) for pair in sample
    ]
    repeats = 1 if quick else 3
    compared: dict[
        str, tuple[Callable[..., float], Callable[..., float], Sequence[tuple[object, ...]]]
    ] = {
        "iou_ratio_vs_monai": (
            metrics.iou,
            lambda a, b: float(monai.compute_iou(a, b)),
            tensors,
        ),
        "hd95_ratio_vs_monai": (
            metrics.hd95,
            lambda a, b: float(
                monai.compute_hausdorff_distance(a, b, include_background=True, percentile=95)
            ),
            tensors,
        ),
        "surface_dice_ratio_vs_monai": (
            lambda a, b: metrics.surface_dice(a, b, TOLERANCE_PX),
            lambda a, b: float(
                monai.compute_surface_dice(a, b, [TOLERANCE_PX], include_background=True)
            ),
            tensors,
        ),
        "cldice_ratio_vs_skimage": (metrics.cldice, whole_cldice, sample),
    }
    figures: dict[str, float | None] = {}
    for figure, (ours, peer, theirs) in compared.items():
        figures[figure] = _ratio(ours, peer, sample, theirs, repeats)
    figures["pairs"] = float(len(sample))
    return figures


if __name__ == "__main__":
    run("metrics", measure, AIMS)
