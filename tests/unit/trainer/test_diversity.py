"""Clusters of descriptors: planted groups are each found, whatever the order of the pool."""

import numpy as np
import pytest
from jaxtyping import Float32

from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.home import Home
from tests.unit.trainer.workspace import add_case
from trainer.diversity import CANDIDATES, diverse

GROUPS = 6


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    catalogue = Catalogue(Home(tmp_path_factory.mktemp("diversity")))
    return [
        add_case(catalogue, n, Split.TRAIN, is_annotated=False, patient=f"p{n // 4}")
        for n in range(48)
    ]


def group(case: Case) -> int:
    return int(case.case_id.removeprefix("case-")) % GROUPS


def vectors(cases: list[Case]) -> Float32[np.ndarray, "n d"]:
    """Groups far apart, cases of one near each other."""
    rows = []
    for case in cases:
        rng = np.random.default_rng(int(case.case_id.removeprefix("case-")))
        rows.append(10 * np.eye(16)[group(case)] + rng.normal(0, 0.1, 16))
    return np.array(rows, dtype=np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_each_planted_group_gives_one_case_before_any_gives_two(
    pool: list[Case], seed: int
) -> None:
    found = diverse(pool, vectors(pool), GROUPS, seed=seed)
    assert sorted(case.case_id for case in found) == [case.case_id for case in pool]
    assert {group(case) for case in found[:GROUPS]} == set(range(GROUPS))


def test_the_order_of_the_pool_does_not_matter(pool: list[Case]) -> None:
    backwards = pool[::-1]
    assert diverse(pool, vectors(pool), 9) == diverse(backwards, vectors(backwards), 9)


def test_groups_that_are_known_come_last(pool: list[Case]) -> None:
    known = [case for case in pool if group(case) < 4][:8]
    rest = [case for case in pool if case not in known]
    found = diverse(rest, vectors(rest), 2, known=vectors(known))
    assert {group(case) for case in found[:2]} == {4, 5}


def test_only_the_least_sure_are_clustered(pool: list[Case]) -> None:
    scores = {case.case_id: float(n) for n, case in enumerate(pool)}
    found = diverse(pool, vectors(pool), 3, scores=scores)
    least_sure = {case.case_id for case in pool[-3 * CANDIDATES :]}
    assert {case.case_id for case in found[: 3 * CANDIDATES]} == least_sure
    assert len({group(case) for case in found[:3]}) == 3


def test_a_patients_quota_leaves_no_group_out(pool: list[Case]) -> None:
    found = diverse(pool, vectors(pool), 12, quota=1)[:12]
    assert len({case.patient for case in found}) == 12
    assert {group(case) for case in found} == set(range(GROUPS))


def test_pictures_that_are_all_alike_are_taken_by_name(pool: list[Case]) -> None:
    alike = np.ones((len(pool), 4), dtype=np.float32)
    assert diverse(pool, alike, 5) == pool


def test_vectors_that_do_not_fit_are_refused(pool: list[Case]) -> None:
    found = vectors(pool)
    with pytest.raises(DataError, match="47 descriptors for 48 cases"):
        diverse(pool, found[:-1], 5)
    found[3, 1] = np.nan
    with pytest.raises(DataError, match="remove the workspace's folder descriptors"):
        diverse(pool, found, 5)
