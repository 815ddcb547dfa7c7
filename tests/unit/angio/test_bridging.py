"""Masks in pieces: a tight lesion that a model leaves out must not hide itself."""

import numpy as np
import pytest

from angio.bridging import PIECE_MIN_PX, joined
from angio.phantoms.specimens import Recipe, draw_specimen
from angio.qca import measure
from tests.unit.angio.test_qca import narrowed


def _broken(bitmap: np.ndarray, half_px: int) -> np.ndarray:
    """The vessel without its middle."""
    middle = bitmap.shape[1] // 2
    broken = bitmap.copy()
    broken[:, middle - half_px : middle + half_px] = False
    return broken


def _picture(bitmap: np.ndarray) -> np.ndarray:
    return np.where(bitmap, 60, 180).astype(np.uint8)


def test_pieces_end_to_end_become_one() -> None:
    whole = narrowed(0.7)
    found = joined(_picture(whole), _broken(whole, 8))
    assert found.bridge.any()
    assert (found.bitmap & found.bridge == found.bridge).all()
    assert (found.bridge & ~whole).mean() < 1e-3


def test_a_whole_mask_stays_as_it_is() -> None:
    whole = narrowed(0.7)
    found = joined(_picture(whole), whole)
    assert (found.bitmap == whole).all()
    assert not found.bridge.any()


def test_a_gap_longer_than_a_lesion_stays_open() -> None:
    found = joined(None, _broken(narrowed(0.3), 40))
    assert not found.bridge.any()


def test_a_vessel_beside_the_first_is_no_continuation() -> None:
    bitmap = np.zeros((100, 200), dtype=bool)
    bitmap[40:50, 10:180] = True
    bitmap[60:70, 10:120] = True
    found = joined(None, bitmap)
    assert found.bitmap.sum() == bitmap[40:50].sum()


def test_specks_are_left_out() -> None:
    bitmap = np.zeros((60, 200), dtype=bool)
    bitmap[20:30, 10:100] = True
    bitmap[24:26, 108:112] = True
    assert bitmap[24:26, 108:112].sum() < PIECE_MIN_PX
    assert joined(None, bitmap).bitmap[:, 101:].sum() == 0


def test_three_pieces_are_joined_in_order() -> None:
    bitmap = np.zeros((60, 300), dtype=bool)
    for start in (10, 110, 210):
        bitmap[20:32, start : start + 85] = True
    found = joined(None, bitmap).bitmap
    assert found[26, 10:295].all()


def test_the_way_follows_the_dark_vessel() -> None:
    whole = np.zeros((120, 240), dtype=bool)
    x = np.arange(240)
    centre = 60 + 16 * np.exp(-(((x - 120) / 14) ** 2))
    y = np.arange(120)[:, None]
    whole |= np.abs(y - centre) <= 6
    found = joined(_picture(whole), _broken(whole, 16))
    assert found.bridge.any()
    assert (found.bridge & whole).sum() >= 0.95 * found.bridge.sum()


@pytest.mark.parametrize("half_px", [2, 6, 10])
def test_a_lesion_the_mask_leaves_out_is_measured(half_px: int) -> None:
    specimen = draw_specimen(np.random.default_rng(3), Recipe(3.2, 0.75, 0.25, 1200.0, 0.8))
    bitmap = specimen.seen.bitmap
    place = measure(specimen.pixels, bitmap).mld_xy
    y, x = np.indices(bitmap.shape)
    broken = bitmap & (np.hypot(x - place[0], y - place[1]) > half_px)
    found = measure(specimen.pixels, broken, by_model=True)
    assert found.stenosis_pct == pytest.approx(specimen.truth.stenosis_pct, abs=8)
