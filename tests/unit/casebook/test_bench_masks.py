"""The bench of masks runs, and compares answers before it times them; nothing here is timed."""

from bench import masks as bench


def test_a_quick_run_gives_every_figure_the_aims_name() -> None:
    figures = bench.measure(quick=True)
    assert set(bench.AIMS) <= set(figures)
    assert all(value is not None and value > 0 for value in figures.values())


def test_the_mix_holds_what_it_says() -> None:
    sample = bench.mix(100)
    assert len(sample) == 100
    areas = [int(bitmap.sum()) for bitmap in sample]
    assert areas.count(0) == 2
    assert areas.count(1) == 3
    assert sum(area > 0.15 * bench.SIDE_PX**2 for area in areas) >= 5
