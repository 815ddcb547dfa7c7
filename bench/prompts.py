"""What a prompt costs once its image has been looked at: the tiny base and SAM 3's real size.

Ten prompts on one image, a box and then its correction clicks, as CVAT sends them: each a call of
its own with all clicks so far. `embeds_per_10_prompts`: runs of the image encoder, the worst of
both sizes. `second_over_first_*`: median time of the later prompts over that of the first, which
pays for the embedding; `first_ms_*` and `prompt_ms_*` are the times. The real size has random
weights, which cost what true ones do, and is absent where memory does not allow it. On a GPU where
there is one (`prompt_ms_gpu`), at the real size; on the processor otherwise.
"""

import time
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch

from bench.harness import run
from casebook.protocols import Frame, Prompt
from segmenter.prompts import WindowConfig
from segmenter.sam3 import REAL, Sam3, build
from segmenter.teacher import Teacher, default_windows
from segmenter.weights import load_base

BASE = Path(__file__).resolve().parents[1] / "conf" / "tiny-base"
AIMS = {"embeds_per_10_prompts": "<= 1", "second_over_first_real_size": "<= 0.01"}
PROMPTS = 10
SIDE_PX = 512
REAL_GB = 9.0
"""Memory the real size needs: weights 3.4 GB, and what building and one embedding take besides."""


def angiogram(seed: int) -> Frame:
    """A dark curve on noise: what a prompt costs does not depend on what it finds."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE_PX, :SIDE_PX]
    pixels = 170 + 8 * rng.standard_normal((SIDE_PX, SIDE_PX))
    pixels[np.abs(x - 250 - 40 * np.sin(y / 60)) < 5] -= 70
    return Frame(pixels.clip(0, 255).astype(np.uint8))


def session(rng: np.random.Generator) -> list[Prompt]:
    """A box, then with it one click more each time."""
    points = np.stack([rng.uniform(200, 300, PROMPTS), rng.uniform(180, 320, PROMPTS)], axis=1)
    kinds = rng.integers(0, 2, PROMPTS)
    box = (190.0, 170.0, 310.0, 330.0)
    return [Prompt(points[:count], kinds[:count], box) for count in range(PROMPTS)]


def costs(teacher: Teacher, images: int) -> tuple[float, float, float]:
    """Milliseconds of a first and of a later prompt, and embeddings of one image's ten."""
    rng = np.random.default_rng(0)
    first: list[float] = []
    later: list[float] = []
    for seed in range(images):
        embedding = teacher.embed(angiogram(seed))
        for number, prompt in enumerate(session(rng)):
            started = time.perf_counter()
            answers = teacher.predict(embedding, prompt)
            # The answer is on the processor by now, so the GPU has finished.
            (later if number else first).append(1000 * (time.perf_counter() - started))
            if len(answers) != 1:
                raise RuntimeError(f"prompt {number} was answered by {len(answers)} masks, not one")
    return median(first), median(later), teacher.n_embeds / images


def real_size() -> Sam3 | None:
    """SAM 3 at its own size, where it fits into memory."""
    free_gb = psutil.virtual_memory().available / 1e9
    if free_gb < REAL_GB:
        print(f"real size: not tried, {free_gb:.0f} GB of memory are free, {REAL_GB:.0f} needed")
        return None
    torch.manual_seed(0)
    model = build(REAL, matching=False).requires_grad_(requires_grad=False)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    tiny = load_base(BASE)
    windows: WindowConfig = default_windows(tiny)
    costs(Teacher(tiny, "warm-up", windows=windows), 1)
    first, later, embeds = costs(Teacher(tiny, "tiny", windows=windows), 2 if quick else 20)
    figures: dict[str, float | None] = {
        "prompt_ms_gpu": None,
        "embeds_per_10_prompts": embeds,
        "second_over_first_tiny": later / first,
        "second_over_first_real_size": None,
        "first_ms_tiny": first,
        "prompt_ms_tiny": later,
        "first_ms_real_size": None,
        "prompt_ms_real_size": None,
    }
    model = None if quick else real_size()
    if model is None:
        return figures
    on_gpu = torch.cuda.is_available()
    windows = default_windows(model)
    if on_gpu:
        costs(Teacher(model, "warm-up", windows=windows), 1)
    first, later, embeds = costs(Teacher(model, "real", windows=windows), 5 if on_gpu else 1)
    return figures | {
        "prompt_ms_gpu": later if on_gpu else None,
        "embeds_per_10_prompts": max(embeds, figures["embeds_per_10_prompts"] or 0.0),
        "second_over_first_real_size": None if on_gpu else later / first,
        "first_ms_real_size": first,
        "prompt_ms_real_size": later,
    }


if __name__ == "__main__":
    run("prompts", measure, AIMS)
