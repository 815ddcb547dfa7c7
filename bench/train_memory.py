"""What training at real size costs: SAM 3's own sizes, random weights, LoRA against all weights.

LoRA as the rounds train it: bfloat16 by autocast, activations computed again instead of kept, a
batch of 8 taken in 8 parts. Plainly: every weight in float32, activations kept, the batch at once.
Each runs in a process of its own, on a GPU where there is one.

On a processor both take a batch of 1 and one step (`steps`), which holds what a first step costs
besides; `peak_gb` is resident memory there. The plain training keeps its activations only where
memory allows it (`plain_keeps_activations`), computes them again where there is less, and is absent
where even that does not fit.
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
LORA_CPU_GB = 8.0
"""Free memory below which nothing of real size is tried on a processor."""
AGAIN_CPU_GB = 14.0
"""Free memory that training every weight needs with activations computed again: weights 3.4 GB,
gradients and two moments of what boxes and clicks reach 5.6 GB, one block's activations besides."""
PLAIN_CPU_GB = 40.0
"""With activations kept, which are some 15 GB more for one picture."""


def one_training(
    strategy: Strategy, quick: bool, steps: int, *, keeps_activations: bool
) -> dict[str, float]:
    """Train some steps of boxes and clicks; peak memory, sizes and pictures per second."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    is_lora = strategy == "lora"
    sizes = (SMALLEST if quick else REAL).model_copy(
        update={"vit_checkpointed": not keeps_activations}
    )
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


def _apart(
    strategy: Strategy, quick: bool, steps: int, *, keeps_activations: bool
) -> dict[str, float] | None:
    """The figures of a training in a process of its own; none when memory ran out."""
    command = [sys.executable, "-m", "bench.train_memory", "--child", strategy, str(steps)]
    flags = {"--quick": quick, "--keeps-activations": keeps_activations}
    told = subprocess.run(
        [*command, *(flag for flag, is_set in flags.items() if is_set)],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        print(f"{strategy}: no figures, {told.stderr.strip().splitlines()[-1:]}")
        return None
    figures: dict[str, float] = json.loads(told.stdout.strip().splitlines()[-1])
    return figures


def _free_gb() -> float:
    return float(psutil.virtual_memory().available) / 1e9


def measure(quick: bool) -> dict[str, float | None]:
    """All figures."""
    on_gpu = torch.cuda.is_available()
    is_tight = not (on_gpu or quick)
    steps = 1 if is_tight else 4
    figures: dict[str, float | None] = dict.fromkeys(
        (
            *("peak_gb", "trainable_fraction", "adapter_mb", "images_per_s_ratio"),
            *("peak_gb_plain", "images_per_s", "plain_keeps_activations"),
        )
    ) | {"on_gpu": float(on_gpu), "steps": float(steps)}
    if is_tight:
        print("no GPU here: a batch of 1 on the processor; peak_gb is resident memory")
        if _free_gb() < LORA_CPU_GB:
            print(f"not tried: {_free_gb():.0f} GB of memory are free, {LORA_CPU_GB:.0f} needed")
            return figures
    lora = _apart("lora", quick, steps, keeps_activations=False)
    if lora is None:
        return figures
    figures |= {
        "peak_gb": lora["peak_gb"],
        "batch": lora["batch"],
        "trainable_fraction": lora["trainable"] / lora["parameters"],
        "adapter_mb": lora["adapter_mb"],
        "images_per_s": lora["images_per_s"],
    }
    if is_tight and _free_gb() < AGAIN_CPU_GB:
        print(f"all weights: not tried, {_free_gb():.0f} GB are free, {AGAIN_CPU_GB:.0f} needed")
        return figures
    keeps = not is_tight or _free_gb() >= PLAIN_CPU_GB
    plain = _apart("full", quick, steps, keeps_activations=keeps)
    if plain is None:
        return figures
    return figures | {
        "peak_gb_plain": plain["peak_gb"],
        "plain_keeps_activations": float(keeps),
        "images_per_s_ratio": lora["images_per_s"] / plain["images_per_s"],
    }


if __name__ == "__main__":
    if "--child" in sys.argv:
        _, _, name, count, *rest = sys.argv
        chosen: Strategy = "lora" if name == "lora" else "full"
        told = one_training(
            chosen,
            "--quick" in rest,
            int(count),
            keeps_activations="--keeps-activations" in rest,
        )
        print(json.dumps(told))
    else:
        run("train_memory", measure, AIMS)
