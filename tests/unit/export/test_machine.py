"""What a process may use of its machine."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from export.machine import cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not held to cores")
def test_a_process_held_to_one_core_uses_one(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores(tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores(tmp_path / "none") == len(before)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("max 100000\n", None),
        ("50000 100000\n", 1),
        ("100000 100000\n", 1),
        ("640000000 100000\n", None),
        ("nonsense", None),
        ("1 0", None),
    ],
)
def test_a_container_is_held_to_its_quota(told: str, expected: int | None, tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    quota.write_text(told, encoding="ascii")
    assert cores(quota) == (expected or cores(tmp_path / "none"))


@pytest.mark.skipif(sys.platform != "linux", reason="its path is Linux's")
def test_the_machine_of_the_tests_has_a_core() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


_FRAMES = """
import resource, sys
import numpy as np
from export.machine import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for number in range(21):
    if number == 1:  # the first needs its memory in any case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(100_000 // 8) for _ in range(40)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
def test_memory_that_was_freed_is_not_asked_for_again() -> None:
    root = Path(__file__).parents[3]
    bare = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    pages = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", _FRAMES, how],
                cwd=root, env=bare, capture_output=True, text=True, check=True,
            ).stdout
        )
        for how in ("given back", "kept")
    }  # fmt: skip
    assert pages["given back"] > 20 * 2_000_000 / os.sysconf("SC_PAGESIZE")  # of 4 MB, most anew
    assert pages["kept"] < pages["given back"] / 20
