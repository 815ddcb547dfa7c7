"""What this machine lets the process use: processor cores. Knows nothing of models."""

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""A container's share of the processor: microseconds it may use, in so many."""


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
