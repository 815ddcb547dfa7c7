"""Thin vessels: what a perfect mask could reach on a model's grid, and what a second look gains.

`ceiling_*`: the true segment as shares of the cells of the grid, brought back to the image as the
model's own logits are, against the truth, over the tiny grid (64 cells) and the real one (288), on
the whole image and in the window around the box; `thinnest`: the quarter with the least width.
`tree_ceiling_*`: the same of whole trees, which are asked for by name on the whole image.

`iou_*`, `cldice_*`, `ms_*`: the shipped tiny base itself, untrained on vessels, prompted by box and
by three clicks: on the whole image, there with a second look (`zoom`), and in windows, which is its
own way. `ms` is a first prompt on a frame, embeddings included; `ms_next` a later one. At real size
the second look costs one more embedding too; its gain needs the real weights and is not measured.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from jaxtyping import Bool

from angio.clicks import click_curve
from bench.harness import run
from bench.phantom_cases import FIRST_TEST, PhantomCase, phantom_cases
from casebook.metrics import cldice, iou
from casebook.protocols import Segmenter
from segmenter.prompts import Window, WindowConfig, paste, window_of
from segmenter.sam3 import REAL, Sam3Config
from segmenter.teacher import Teacher
from segmenter.weights import load_base

BASE = Path(__file__).resolve().parents[1] / "conf" / "tiny-base"
PATIENTS = 16
CLICKS = 3
WHOLE = WindowConfig(whole_image=True)
WAYS = {"whole": WHOLE, "zoom": WindowConfig(whole_image=True, zoom=True), "window": WindowConfig()}
AIMS = {"ceiling_iou_tiny_window": ">= 0.94", "ceiling_iou_real_whole": ">= 0.94"}
"""Beyond these the grid is not what limits a mask: two readers agree no better."""
_FINE = 8
"""Samples along a cell: shares of cells are exact to 1/64."""


def on_grid(bitmap: Bool[np.ndarray, "h w"], window: Window, cells: int) -> np.ndarray:
    """The mask a perfect model would answer: the truth seen through the grid of a window."""
    side = cells * _FINE
    at = (np.arange(side) + 0.5) * window.size_px / side
    rows = np.floor(at + window.y).astype(np.int64)
    columns = np.floor(at + window.x).astype(np.int64)
    height, width = bitmap.shape
    fine = bitmap[rows.clip(0, height - 1)[:, None], columns.clip(0, width - 1)[None, :]].copy()
    fine[(rows < 0) | (rows >= height)] = False
    fine[:, (columns < 0) | (columns >= width)] = False
    shares = F.avg_pool2d(torch.from_numpy(fine.astype(np.float32))[None, None], _FINE)[0, 0]
    return np.asarray(paste(shares - 0.5, window, (height, width)) > 0)


def width_px(bitmap: Bool[np.ndarray, "h w"]) -> float:
    """Mean width of a thin mask: twice its area over its outline."""
    padded = np.pad(bitmap, 1)
    outline = np.count_nonzero(padded[1:] ^ padded[:-1])
    outline += np.count_nonzero(padded[:, 1:] ^ padded[:, :-1])
    # Steps along rows and columns are 4/π longer than a line in any direction.
    return 2 * int(np.count_nonzero(bitmap)) / (outline * np.pi / 4)


def ceilings(cases: Sequence[PhantomCase]) -> dict[str, float | None]:
    """Figures of perfect masks on both grids."""
    figures: dict[str, float | None] = {}
    widths = [float(width_px(case.bitmap)) for case in cases]
    thin = np.argsort(widths, kind="stable")[: max(1, len(cases) // 4)].tolist()
    figures["width_px"] = mean(widths)
    figures["thinnest_width_px"] = mean(widths[index] for index in thin)
    for size, config in (("tiny", Sam3Config()), ("real", REAL)):
        for look in ("whole", "window"):
            pairs = [
                (
                    on_grid(
                        case.bitmap,
                        window_of(case.box, case.frame.hw, WAYS[look]),
                        config.mask_side,
                    ),
                    case.bitmap,
                )
                for case in cases
            ]
            overlaps = [iou(found, truth) for found, truth in pairs]
            name = f"{size}_{look}"
            figures[f"ceiling_iou_{name}"] = mean(overlaps)
            figures[f"ceiling_cldice_{name}"] = mean(cldice(*pair) for pair in pairs)
            figures[f"ceiling_iou_thinnest_{name}"] = mean(overlaps[index] for index in thin)
        trees = [
            (on_grid(case.tree, window_of(case.box, case.frame.hw, WHOLE), config.mask_side), case)
            for case in cases
        ]
        figures[f"tree_ceiling_iou_{size}"] = mean(iou(found, case.tree) for found, case in trees)
    return figures


def looks(segmenters: Mapping[str, Segmenter], cases: Sequence[PhantomCase]) -> dict[str, float]:
    """Figures of the ways to look, each case by all of them in turn."""
    told: dict[str, list[float]] = {}

    def tell(name: str, value: float) -> None:
        told.setdefault(name, []).append(value)

    for case in cases:
        for way, segmenter in segmenters.items():
            for name in ("ms", "ms_next"):
                started = time.perf_counter()
                answer = segmenter.predict(segmenter.embed(case.frame), case.box)[0]
                tell(f"{name}_{way}", 1000 * (time.perf_counter() - started))
            tell(f"iou_box_{way}", iou(answer.bitmap, case.bitmap))
            tell(f"cldice_box_{way}", cldice(answer.bitmap, case.bitmap))
            embedding = segmenter.embed(case.frame)
            curve = click_curve(segmenter, embedding, case.bitmap, limit=CLICKS)
            tell(f"iou_click{CLICKS}_{way}", curve[-1])
    return {
        name: median(values) if name.startswith("ms") else mean(values)
        for name, values in told.items()
    }


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    torch.set_num_threads(1)
    patients = range(FIRST_TEST, FIRST_TEST + (1 if quick else PATIENTS))
    cases = list(phantom_cases(patients))
    model = load_base(BASE)
    segmenters: dict[str, Segmenter] = {
        way: Teacher(model, "tiny-base", windows=windows) for way, windows in WAYS.items()
    }
    return {"cases": float(len(cases)), **ceilings(cases), **looks(segmenters, cases)}


if __name__ == "__main__":
    run("thin", measure, AIMS)
