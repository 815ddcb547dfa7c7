"""What a process may use of its machine."""

import os
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
