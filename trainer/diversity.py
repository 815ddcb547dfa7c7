"""Cases that differ: clusters of descriptors, and from each in turn the case that stands for it.

Works on vectors and scores alone; knows no model and no files.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int64
from scipy.cluster.vq import kmeans2

from casebook.cases import Case
from casebook.errors import DataError

CLUSTERS_MAX = 500
"""More clusters than this hold a case or two each, and cost time.

Source: Hacohen, Dekel and Weinshall, Active Learning on a Budget (2022), arXiv:2202.02794, 3.3."""
CANDIDATES = 4
"""With uncertainty, the clusters are of so many times the wanted cases, the least sure.

Source: Zhdanov, Diverse mini-batch Active Learning (2019), arXiv:1901.05954, algorithm 1; the
factor is ours."""
_ITERATIONS = 30


def diverse(
    pool: Sequence[Case],
    vectors: Float32[np.ndarray, "n d"],
    wanted: int,
    *,
    known: Float32[np.ndarray, "m d"] | None = None,
    scores: Mapping[str, float] | None = None,
    quota: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """All cases of a pool, so ordered that those first differ most.

    Pool and known cases are clustered together, as many clusters as there are known and wanted
    cases. Clusters without a known case come first, the largest before the others; each gives a
    case in turn: its least sure where there are scores, else the one nearest to its centre.

    Args:
        vectors: A row for each case of the pool.
        wanted: How many will be taken.
        known: Rows of cases chosen earlier, whose surroundings are known.
        scores: How unsure a model is by case id. Then only the least sure are clustered, and
            the others follow.
        quota: Cases of one patient at most, until no others are left.

    Raises:
        DataError: there is not one finite vector a case.
    """
    if len(pool) != len(vectors) or not np.isfinite(vectors).all():
        raise DataError(
            f"{len(vectors)} descriptors for {len(pool)} cases, or some not finite; remove the "
            "workspace's folder descriptors, they are made again"
        )
    rows = sorted(range(len(pool)), key=lambda row: pool[row].case_id)
    others: list[int] = []
    if scores is not None:
        rows.sort(key=lambda row: -scores[pool[row].case_id])
        rows, others = rows[: CANDIDATES * wanted], rows[CANDIDATES * wanted :]
    if not rows or wanted < 1:
        return [pool[row] for row in (*rows, *others)]
    before = np.zeros((0, vectors.shape[1]), np.float32) if known is None else known
    points = np.concatenate([vectors[rows], before]).astype(np.float64)
    labels, distances = _clusters(points, min(wanted + len(before), CLUSTERS_MAX), seed)
    covered = Counter(labels[len(rows) :].tolist())
    members: dict[int, list[int]] = {}
    for place, label in enumerate(labels[: len(rows)].tolist()):
        members.setdefault(label, []).append(place)
    if scores is None:
        for places in members.values():
            places.sort(key=lambda place: (distances[place], place))
    order = sorted(members, key=lambda label: (covered[label], -len(members[label]), label))
    queues = [[pool[rows[place]] for place in members[label]] for label in order]
    return [*_in_turn(queues, quota), *(pool[row] for row in others)]


def _clusters(
    points: Float64[np.ndarray, "n d"], count: int, seed: int
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The cluster of each point, and its distance from the centre."""
    centres = _spread_out(points, count, np.random.default_rng(seed))
    with warnings.catch_warnings():
        # Such a cluster keeps its centre and gives no case.
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, found = kmeans2(points, centres, iter=_ITERATIONS, minit="matrix")
    labels = np.asarray(found, dtype=np.int64)
    distances = np.linalg.norm(points - centres[labels], axis=1)
    return labels, np.asarray(distances, dtype=np.float64)


def _spread_out(
    points: Float64[np.ndarray, "n d"], count: int, rng: np.random.Generator
) -> Float64[np.ndarray, "k d"]:
    """Points to start from, each drawn in proportion to its squared distance from those before.

    Fewer come back where fewer differ. Source: Arthur and Vassilvitskii, k-means++ (2007), 2.2.
    """
    squares = (points**2).sum(axis=1)

    def squared_to(place: int) -> Float64[np.ndarray, " n"]:
        found = squares + squares[place] - 2 * (points @ points[place])
        # What rounding leaves between equal points is not a distance.
        return np.where(found > 1e-12 * squares.max(), found, 0.0)

    chosen = [int(rng.integers(len(points)))]
    nearest = squared_to(chosen[0])
    while len(chosen) < count and nearest.sum() > 0:
        chosen.append(int(rng.choice(len(points), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, squared_to(chosen[-1]))
    return points[chosen]


def _in_turn(queues: Sequence[list[Case]], quota: int | None) -> list[Case]:
    """One case of each queue after the other; above a patient's quota only when none is left."""
    counts: Counter[str] = Counter()
    taken: list[Case] = []
    waiting = [list(queue) for queue in queues]
    while True:
        before = len(taken)
        for queue in waiting:
            place = next(
                (
                    n
                    for n, case in enumerate(queue)
                    if quota is None or counts[case.patient] < quota
                ),
                None,
            )
            if place is not None:
                case = queue.pop(place)
                counts[case.patient] += 1
                taken.append(case)
        if len(taken) == before:
            break
    while any(waiting):
        taken += [queue.pop(0) for queue in waiting if queue]
    return taken
