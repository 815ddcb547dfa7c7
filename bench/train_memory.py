"""What training at real size costs: SAM 3's own sizes, random weights, LoRA against all weights.

LoRA as the rounds train it: bfloat16 by autocast, activations computed again instead of kept, a
batch of 8 taken in 8 parts. Plainly: every weight in float32, activations kept, the batch at once.
Each runs in a process of its own, on a GPU where there is one. On a processor both take a batch of
1; the plain one is tried only where memory allows it, and its ratio is absent otherwise.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from bench.harness import run
from segmenter import adapter as adapters
from segmenter.fit import LoraConfig, TrainConfig
from segmenter.interactive import PromptMix, interactive_loss
from segmenter.sam3 import REAL, SMALLEST, build
from segmenter.steps import WHOLE, Part, Step
from segmenter.tuning import Strategy

AIMS = {"peak_gb": "<= 20", "trainable_fraction": "<= 0.01", "adapter_mb": "<= 20"}
BATCH = 8
PLAIN_CPU_GB = 40.0
"""Memory below which training every weight on a processor is not tried: weights, gradients and two
moments are 14 GB, the activations of one picture about as much again."""


def one_training(strategy: Strategy, quick: bool, steps: int) -> dict[str, float]:
    """Train some steps of boxes and clicks; peak memory, sizes and pictures per second."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    is_lora = strategy == "lora"
    sizes = (SMALLEST if quick else REAL).model_copy(update={"vit_checkpointed": is_lora})
    batch = BATCH if on_gpu or quick else 1
    config = TrainConfig(
        batch=batch,
        precision="bfloat16" if is_lora else "float32",
        accumulate=batch if is_lora else 1,
        strategy=strategy,
    )
    torch.manual_seed(0)
    model = build(sizes).requires_grad_(requires_grad=False).to(device)
    adapters.begin(model, config.lora, strategy, "bench")
    model.train()
    named = adapters.trainable(model)
    optimizer = torch.optim.AdamW(named.values(), lr=1e-5)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.normal(size=(batch, 3, sizes.side_px, sizes.side_px))).float()
    truth = torch.zeros(batch, sizes.side_px, sizes.side_px, dtype=torch.bool)
    truth[:, sizes.side_px // 3 : sizes.side_px // 2, sizes.side_px // 4 : -sizes.side_px // 4] = (
        True
    )
    index = torch.arange(batch, device=device)

    def loss(step: int, generator: torch.Generator, part: Part = WHOLE) -> dict[str, torch.Tensor]:
        return interactive_loss(
            model,
            pixels.to(device),
            index,
            truth.to(device),
            PromptMix(corrections=0),
            generator,
            part=part,
        )

    step = Step(named, loss, loss, config)
    spent = []
    for number in range(steps):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        step.gradients(lambda at: at, number)
        optimizer.step()
        if on_gpu:
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if on_gpu else _peak_rss()
    figures = {
        "peak_gb": peak / 1e9,
        "images_per_s": batch / min(spent),
        "trainable": float(sum(p.numel() for p in named.values())),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "batch": float(batch),
    }
    if is_lora:
        with tempfile.TemporaryDirectory() as folder:
            adapters.save_adapter(model, "bench", LoraConfig(), Path(folder))
            figures["adapter_mb"] = (Path(folder) / adapters.WEIGHTS).stat().st_size / 1e6
    return figures


def _peak_rss() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def _apart(strategy: Strategy, quick: bool, steps: int) -> dict[str, float] | None:
    """The figures of a training in a process of its own; none when memory ran out."""
    command = [sys.executable, "-m", "bench.train_memory", "--child", strategy, str(steps)]
    told = subprocess.run(
        [*command, *(["--quick"] if quick else [])], capture_output=True, text=True, check=False
    )
    if told.returncode:
        print(f"{strategy}: no figures, {told.stderr.strip().splitlines()[-1:]}")
        return None
    figures: dict[str, float] = json.loads(told.stdout.strip().splitlines()[-1])
    return figures


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    on_gpu = torch.cuda.is_available()
    steps = 4 if on_gpu or quick else 1
    lora = _apart("lora", quick, steps)
    if lora is None:
        return {"peak_gb": None, "trainable_fraction": None, "adapter_mb": None,
                "images_per_s_ratio": None}  # fmt: skip
    plain = None
    free_gb = psutil.virtual_memory().available / 1e9
    if on_gpu or quick or free_gb >= PLAIN_CPU_GB:
        plain = _apart("full", quick, steps)
    else:
        print(
            f"all weights: not tried, {free_gb:.0f} GB of memory are free, "
            f"{PLAIN_CPU_GB:.0f} needed"
        )
    if not on_gpu:
        print(
            f"no GPU here: batch {lora['batch']:.0f} on the processor; peak_gb is resident memory"
        )
    return {
        "peak_gb": lora["peak_gb"],
        "peak_gb_plain": plain["peak_gb"] if plain else None,
        "batch": lora["batch"],
        "on_gpu": float(on_gpu),
        "trainable_fraction": lora["trainable"] / lora["parameters"],
        "adapter_mb": lora["adapter_mb"],
        "images_per_s": lora["images_per_s"],
        "images_per_s_ratio": lora["images_per_s"] / plain["images_per_s"] if plain else None,
    }


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, name, count, *rest = sys.argv
        chosen: Strategy = "lora" if name == "lora" else "full"
        print(json.dumps(one_training(chosen, "--quick" in rest, int(count))))
    else:
        run("train_memory", measure, AIMS)
