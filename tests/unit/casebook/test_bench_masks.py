"""The bench of masks runs, and compares answers before it times them; nothing here is timed."""

import sys

import pytest

from bench import masks as bench


def test_a_quick_run_gives_every_figure_the_aims_name() -> None:
    pytest.importorskip("datumaro", reason="the extra `bench` is not installed")
    figures = bench.measure(quick=True)
    assert set(bench.AIMS) <= set(figures)
    assert all(value is not None and value > 0 for value in figures.values())


def test_without_the_peers_the_bench_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datumaro.util.mask_tools", None)
    with pytest.raises(SystemExit, match=r"pip install .*\[bench\]"):
        bench.measure(quick=True)


def test_the_mix_holds_what_it_says() -> None:
    sample = bench.mix(100)
    assert len(sample) == 100
    areas = [int(bitmap.sum()) for bitmap in sample]
    assert areas.count(0) == 2
    assert areas.count(1) == 3
    assert sum(area > 0.15 * bench.SIDE_PX**2 for area in areas) >= 5
