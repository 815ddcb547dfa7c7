"""The ingest bench runs, and both sides of it render the same pixels."""

from bench.ingest import AIMS, measure


def test_the_bench_measures_every_figure() -> None:
    figures = measure(quick=True)
    assert set(AIMS) <= set(figures)
    assert all(value is not None and value > 0 for value in figures.values())
    assert figures["frame_choice_in_plateau"] == 1.0
