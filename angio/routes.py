"""The cheapest way over pixels that each cost something. Knows no vessels.

scikit-image has the same (`skimage.graph.route_through_array`, to which the tests hold this), but
is not on the deployment machine (ADR 27).
"""

import numpy as np
from jaxtyping import Float64, Int64
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

LEAST_PX = 8
"""How far beyond both ends, at least, a way may lead …"""
SHARE = 1.0
"""… and as a share of the distance between them."""


def cheapest(
    cost: Float64[np.ndarray, "h w"], start: Int64[np.ndarray, "2"], end: Int64[np.ndarray, "2"]
) -> Int64[np.ndarray, "k 2"]:
    """Rows and columns from start to end, both included, each a neighbour of the one before.

    A step costs the mean of its two pixels times its length. Only the box around both ends is
    looked at, with a margin about as wide as they are apart.

    Args:
        cost: Of each pixel, positive.
        start: Row and column.
        end: Likewise.
    """
    apart = float(np.linalg.norm(end - start))
    margin = max(LEAST_PX, int(np.ceil(SHARE * apart)))
    low = np.maximum(np.minimum(start, end) - margin, 0)
    high = np.minimum(np.maximum(start, end) + margin + 1, cost.shape)
    part = cost[low[0] : high[0], low[1] : high[1]]
    height, width = part.shape
    number = np.arange(part.size).reshape(part.shape)
    sources, targets, prices = [], [], []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
        there = (slice(dy, height), slice(max(dx, 0), width + min(dx, 0)))
        sources.append(number[here].ravel())
        targets.append(number[there].ravel())
        prices.append((0.5 * np.hypot(dy, dx) * (part[here] + part[there])).ravel())
    graph = coo_matrix(
        (np.concatenate(prices), (np.concatenate(sources), np.concatenate(targets))),
        shape=(part.size, part.size),
    ).tocsr()
    first, at = (int(number[tuple(one - low)]) for one in (start, end))
    _, before = dijkstra(graph, directed=False, indices=first, return_predecessors=True)
    way = [at]
    while at != first:
        at = int(before[at])
        way.append(at)
    rows_columns = np.stack(np.unravel_index(way[::-1], part.shape), axis=1)
    return np.asarray(rows_columns + low, dtype=np.int64)
