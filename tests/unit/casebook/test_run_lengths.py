"""Run lengths against the plain way of counting them, on every shape of picture."""

from itertools import groupby

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from casebook import run_lengths
from casebook.errors import MaskError

# The pictures are large for hypothesis: a busy machine draws them slowly.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
small = arrays(bool, st.tuples(st.integers(1, 20), st.integers(1, 20)))


@st.composite
def wide(draw: st.DrawFn) -> np.ndarray:
    """Pictures large enough for the eight-at-once paths: sparse, dense, full, in either order."""
    hw = draw(st.tuples(st.integers(60, 140), st.integers(60, 140)))
    share = draw(st.sampled_from([0.0, 0.0005, 0.02, 0.3, 0.97, 1.0]))
    bitmap = np.random.default_rng(draw(st.integers(0, 2**32))).random(hw) < share
    return np.asfortranarray(bitmap) if draw(st.booleans()) else bitmap


def drawn(runs: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    return run_lengths.from_columns(runs, hw, run_lengths.column_box(runs, hw))


def counted(line: np.ndarray) -> list[int]:
    runs = [(bool(value), len(list(same))) for value, same in groupby(line.tolist())]
    return [0] * runs[0][0] + [length for _, length in runs]


@patient
@given(bitmap=st.one_of(small, wide()))
def test_runs_and_boxes_are_those_counted_one_by_one(bitmap: np.ndarray) -> None:
    runs = run_lengths.of_columns(bitmap)
    assert runs.tolist() == counted(bitmap.T.reshape(-1))
    assert np.array_equal(drawn(runs, bitmap.shape), bitmap)
    box = run_lengths.bounds(bitmap)
    assert run_lengths.column_box(runs, bitmap.shape) == box
    if box is None:
        assert not bitmap.any()
        return
    rows, columns = np.nonzero(bitmap)
    assert box == (columns.min(), rows.min(), columns.max(), rows.max())
    crop = bitmap[box[1] : box[3] + 1, box[0] : box[2] + 1]
    assert run_lengths.of_rows(bitmap, box).tolist() == counted(crop.reshape(-1))


@given(bitmap=small, position=st.integers(0, 400), value=st.integers(0, 3))
def test_runs_of_no_pixels_change_nothing(bitmap: np.ndarray, position: int, value: int) -> None:
    runs = run_lengths.of_columns(bitmap)
    at = min(position, runs.size)
    padded = np.insert(runs, at, [0] * (2 * value))
    assert np.array_equal(drawn(padded, bitmap.shape), bitmap)
    assert run_lengths.column_box(padded, bitmap.shape) == run_lengths.bounds(bitmap)


@patient
@given(flat=arrays(bool, st.integers(0, 6000)))
def test_set_pixels_are_found_wherever_they_are(flat: np.ndarray) -> None:
    assert run_lengths.set_at(flat).tolist() == np.flatnonzero(flat).tolist()


@patient
@given(bitmap=wide())
def test_text_reads_as_pycocotools_wrote_it(bitmap: np.ndarray) -> None:
    text = coco.encode(np.asfortranarray(bitmap.astype(np.uint8)))["counts"].decode()
    assert run_lengths.from_text(text).tolist() == counted(bitmap.T.reshape(-1))


@pytest.mark.parametrize("runs", [[], [3], [5, -1], [2, 3]])
def test_runs_that_do_not_fill_are_refused(runs: list[int]) -> None:
    with pytest.raises(MaskError, match="expected 4"):
        run_lengths.filled(np.array(runs, dtype=np.int32), 4)
