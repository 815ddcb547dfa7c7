"""Cheapest ways beside scikit-image's."""

import numpy as np
import pytest
from jaxtyping import Float64, Int64
from skimage.graph import route_through_array

from angio.routes import cheapest


def price(cost: Float64[np.ndarray, "h w"], way: Int64[np.ndarray, "k 2"]) -> float:
    steps = np.linalg.norm(np.diff(way, axis=0), axis=1)
    assert (steps < 1.5).all()  # neighbours
    values = cost[tuple(way.T)]
    return float((steps * (values[1:] + values[:-1]) / 2).sum())


@pytest.mark.parametrize("seed", range(12))
def test_ways_cost_what_those_of_scikit_image_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(3, 34, 2))
    cost = rng.uniform(1.0, 3.0, (height, width))
    start = np.array([rng.integers(height), rng.integers(width)], dtype=np.int64)
    end = np.array([height - 1 - start[0], width - 1 - start[1]], dtype=np.int64)
    way = cheapest(cost, start, end)
    assert (way[0] == start).all()
    assert (way[-1] == end).all()
    _, expected = route_through_array(cost, tuple(start), tuple(end), geometric=True)
    assert price(cost, way) == pytest.approx(expected)


def test_a_wall_is_gone_around() -> None:
    cost = np.ones((40, 40))
    cost[10:30, 20] = 1000.0
    way = cheapest(cost, np.array([20, 15]), np.array([20, 25]))
    assert (way[:, 0] == 9).any() or (way[:, 0] == 30).any()
    assert cost[tuple(way.T)].max() == 1.0


def test_a_way_to_itself_is_one_pixel() -> None:
    at = np.array([2, 3])
    assert cheapest(np.ones((5, 5)), at, at).tolist() == [[2, 3]]
