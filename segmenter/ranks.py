"""Training in several processes: joining the others, and starting them under torchrun.

One process a GPU; without GPUs any number, over gloo. Knows no model and no data.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed

from casebook.errors import ConfigError, TrainingError

WAIT = timedelta(minutes=30)
"""How long a process waits for the others."""


def processes_for(wanted: int | None) -> int:
    """How many processes a training runs in: the number asked for, else one a visible GPU.

    Raises:
        ConfigError: more than there are GPUs, where there are some.
    """
    n_gpus = torch.cuda.device_count()
    if wanted is None:
        return max(1, n_gpus)
    if n_gpus and wanted > n_gpus:
        raise ConfigError(
            f"train.processes is {wanted}, {n_gpus} GPUs are visible; lower it, or set "
            "CUDA_VISIBLE_DEVICES"
        )
    return wanted


@contextmanager
def joined() -> Iterator[str]:
    """Join the processes torchrun started; the device of this one, as torch names it.

    Started by hand, without torchrun, it is the only one.
    """
    if "WORLD_SIZE" not in os.environ:
        yield "cuda" if torch.cuda.is_available() else "cpu"
        return
    device = "cpu"
    if torch.cuda.is_available():
        device = f"cuda:{int(os.environ['LOCAL_RANK'])}"
        torch.cuda.set_device(device)
    # gloo is what Windows and machines without GPUs have.
    has_nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    torch.distributed.init_process_group("nccl" if has_nccl else "gloo", timeout=WAIT)
    try:
        yield device
    finally:
        torch.distributed.destroy_process_group()


def leads() -> bool:
    """Whether this process writes the files."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not started or torch.distributed.get_rank() == 0


def of_first(compute: Callable[[], float], device: torch.device) -> float:
    """A number the first process computes, in all of them; the others wait."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return compute()
    found = compute() if leads() else 0.0
    told = torch.tensor([found], dtype=torch.float64, device=device)
    torch.distributed.broadcast(told, 0)
    return float(told)


def launch(module: str, arguments: Sequence[str], processes: int) -> Generator[str, None, None]:
    """Run a module in several processes under torchrun; what the first of them prints, by line.

    Raises:
        TrainingError: a process failed; torchrun has ended the others.
    """
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(processes), "--module", module, *arguments),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(  # noqa: S603 - our own module
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as running,
    ):
        try:
            yield from (line.rstrip("\n") for line in running.stdout or ())
        except BaseException:
            running.terminate()
            raise
        running.wait()
        errors.seek(0)
        said = errors.read()
    if running.returncode:
        lines = [line for line in said.splitlines() if "Error" in line] or said.splitlines()[-1:]
        shown = lines[0].strip() if lines else "no message"
        raise TrainingError(
            f"one of {processes} processes of {module} ended with {running.returncode}: {shown}. "
            "Run the same command again to go on from the last checkpoint"
        )
