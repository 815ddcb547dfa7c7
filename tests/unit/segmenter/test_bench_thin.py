"""The bench of thin vessels: perfect masks on a grid, and a quick run; nothing here is timed."""

import numpy as np
import pytest

from bench import thin as bench
from casebook.metrics import iou
from segmenter.prompts import Window, whole_window


def line(width_px: int) -> np.ndarray:
    bitmap = np.zeros((128, 128), dtype=bool)
    bitmap[21 : 21 + width_px, 10:120] = True
    return bitmap


def test_a_mask_of_whole_cells_is_reached_and_one_finer_than_the_grid_is_not() -> None:
    window = whole_window((128, 128))
    blocks = np.zeros((128, 128), dtype=bool)
    blocks[32:64, 16:96] = True
    assert iou(bench.on_grid(blocks, window, 64), blocks) > 0.97
    assert iou(bench.on_grid(line(3), window, 16), line(3)) < 0.5


def test_a_window_with_a_cell_a_pixel_loses_nothing() -> None:
    bitmap = line(3)
    found = bench.on_grid(bitmap, Window(0, 0, 64), 64)
    assert np.array_equal(found[:64, :64], bitmap[:64, :64])
    assert not found[:, 64:].any()


def test_a_window_over_the_edge_holds_no_mask_there() -> None:
    bitmap = np.zeros((40, 60), dtype=bool)
    bitmap[0:10, 0:10] = True
    assert np.array_equal(bench.on_grid(bitmap, Window(-10, -20, 80), 80), bitmap)


@pytest.mark.parametrize("wide", [2, 4, 8])
def test_widths_are_those_of_the_lines_drawn(wide: int) -> None:
    diagonal = np.abs(np.subtract.outer(np.arange(128), np.arange(128))) * 2 < wide * np.sqrt(2)
    assert bench.width_px(diagonal) == pytest.approx(wide, rel=0.25)


def test_a_quick_run_gives_ceilings_and_answers_of_every_way() -> None:
    figures = bench.measure(quick=True)
    assert set(bench.AIMS) <= set(figures)
    wanted = {f"{name}_{way}" for name in ("iou_box", "ms", "ms_next") for way in bench.WAYS}
    assert wanted <= set(figures)
    window, whole = figures["ceiling_iou_tiny_window"], figures["ceiling_iou_tiny_whole"]
    assert window is not None
    assert whole is not None
    assert window > whole + 0.1
