from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segmenter.prompts import Window, crop
from segmenter.tiles import OVERLAP, blended, tiles_of

SIZES = st.integers(1, 700)
SHARES = st.floats(0.1, 0.99)


@settings(max_examples=60, deadline=None)
@given(height=SIZES, width=SIZES, share=SHARES)
def test_tiles_cover_every_pixel_and_stay_inside_where_they_fit(
    height: int, width: int, share: float
) -> None:
    tiles = tiles_of((height, width), share)
    seen = np.zeros((height, width), dtype=bool)
    for tile in tiles:
        seen[max(0, tile.y) : tile.y + tile.size_px, max(0, tile.x) : tile.x + tile.size_px] = True
        for start, extent in ((tile.x, width), (tile.y, height)):
            assert start >= 0 or tile.size_px > extent
            assert start + tile.size_px <= extent or tile.size_px > extent
    assert seen.all()
    assert len({(tile.x, tile.y) for tile in tiles}) == len(tiles)


def test_neighbours_overlap_by_what_is_asked() -> None:
    tiles = tiles_of((512, 512), 0.3)
    columns = sorted({tile.x for tile in tiles})
    assert len(columns) == 4
    assert min(a + tiles[0].size_px - b for a, b in pairwise(columns)) >= (
        OVERLAP * tiles[0].size_px
    )


@pytest.mark.parametrize("hw", [(90, 90), (60, 120), (1, 1)], ids=["square", "wide", "a pixel"])
def test_what_all_tiles_agree_on_is_what_comes_back(hw: tuple[int, int]) -> None:
    tiles = tiles_of(hw, 0.55)
    found = blended(torch.full((len(tiles), 8, 8), 1.5), tiles, hw)
    assert found.shape == hw
    assert np.allclose(found, 1.5, atol=1e-5)


def test_an_object_is_put_together_where_it_is() -> None:
    rows, columns = np.mgrid[:200, :200]
    bitmap = np.abs(rows - columns) < 12
    tiles = tiles_of(bitmap.shape, 0.5)
    said = [crop(bitmap.astype(np.uint8) * np.uint8(255), tile, 50) for tile in tiles]
    found = blended(torch.from_numpy(np.stack(said)).float() / 255 - 0.5, tiles, bitmap.shape) > 0
    assert (found ^ bitmap).mean() < 0.02


def test_at_its_edge_a_tile_gives_way_to_its_neighbour() -> None:
    tiles = (Window(0, 0, 40), Window(20, 0, 40))
    found = blended(
        torch.stack([torch.full((4, 4), -2.0), torch.full((4, 4), 2.0)]), tiles, (40, 60)
    )
    assert np.allclose(found[:, :20], -2)
    assert np.allclose(found[:, 40:], 2)
    assert (np.diff(found[20, 20:40]) >= 0).all()
    assert abs(float(found[20, 29:31].mean())) < 0.3
