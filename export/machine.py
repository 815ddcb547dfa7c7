"""What this machine lets the process use: cores, freed memory. Knows nothing of models."""

import os
from pathlib import Path

import numpy as np

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processor: microseconds it may use, in so many."""
_BLOCK_BYTES = 31 * 2**20
"""Just below the largest block that glibc adjusts itself to."""


def cores(quota: Path = _QUOTA) -> int:
    """Processor cores the process may use: fewer than the machine's where it is held to some.

    Args:
        quota: Linux's file of a container's limit, version 2 of its control groups.
    """
    if hasattr(os, "sched_getaffinity"):
        found = len(os.sched_getaffinity(0))
    else:  # pragma: no cover - Windows and macOS
        found = os.cpu_count() or 1
    try:
        allowed, _, period = quota.read_text(encoding="ascii").partition(" ")
        if allowed != "max":
            found = min(found, round(int(allowed) / int(period)))
    except (OSError, ValueError, ZeroDivisionError):  # not Linux, or no such limit
        pass
    return max(1, found)


def keep_freed_memory() -> None:
    """Let the process keep some memory it has freed, instead of asking for it again each frame.

    glibc gives the end of its heap back to the system as soon as more than twice the largest block
    ever mapped and freed is unused there; the arrays of the next frame then come page by page from
    the system, some 1 800 pages a frame. One large block, never touched, moves that limit to 62 MB.
    What is really used at once is the same. Other C libraries are not changed by it.

    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD, "dynamic mmap threshold".
    """
    np.empty(_BLOCK_BYTES, dtype=np.uint8)
