"""The bench of long folders runs, and four times the files need no more memory."""

from bench.site import AIMS, measure
from tests.unit.export.workshop import unchecked


def test_memory_does_not_grow_with_the_folder() -> None:
    with unchecked():
        figures = measure(quick=True)
    assert set(AIMS) <= set(figures)
    ratio = figures["rss_2000_over_200"]
    assert ratio is None or ratio < 1.1
    assert all(value is None or value > 0 for value in figures.values())
