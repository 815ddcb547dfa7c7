"""Selection: round 1 from what came annotated, later rounds from what is unused, and no leaks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32

from casebook.annotations import read_annotations
from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.errors import DataError, StateError
from casebook.home import Home
from casebook.rounds import RoundFolder
from tests.unit.trainer.workspace import add_case, make_conf, make_workspace
from trainer.descriptors import describing
from trainer.rounds_config import SelectConfig
from trainer.select import Signals, check_images, choose, select
from trainer.work import Work


def work(home: Home, conf: Path, number: int, *overrides: str) -> Work:
    return Work(RoundFolder(home, number), conf, overrides)


def test_round_1_takes_the_training_cases_that_came_annotated(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    select(work(home, conf, 1))
    folder = RoundFolder(home, 1)
    manifest = folder.manifest()
    assert [case.at.case_id for case in manifest.cases] == [f"case-00{n}" for n in range(4)]
    assert (len(manifest.val), len(manifest.test)) == (3, 3)
    annotations = read_annotations(folder.file("annotations.coco.json"))
    assert {image.status for image in annotations.images} == {"ok"}
    assert {image.case_id for image in annotations.images} == {
        case.at.case_id for case in manifest.cases
    }
    assert len(annotations.annotations) == 4


def test_later_rounds_take_unused_cases_and_copy_the_frozen_ones(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path, new=5), make_conf(tmp_path, cases=2)
    for number in (1, 2, 3, 4):
        select(work(home, conf, number))
    manifests = [RoundFolder(home, number).manifest() for number in (1, 2, 3, 4)]
    used = [case.at.case_id for manifest in manifests for case in manifest.cases]
    assert len(used) == len(set(used)) == 9
    assert [len(manifest.cases) for manifest in manifests] == [4, 2, 2, 1]
    assert all(manifest.val == manifests[0].val for manifest in manifests)
    assert all(manifest.test == manifests[0].test for manifest in manifests)
    with pytest.raises(StateError, match="no unused training case"):
        select(work(home, conf, 5))


def test_a_later_round_needs_the_manifests_before_it(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    with pytest.raises(StateError, match="ROUND=1"):
        select(work(home, conf, 2))


@pytest.mark.parametrize("missing", [Split.TRAIN, Split.VAL, Split.TEST])
def test_round_1_says_which_cases_are_missing(tmp_path: Path, missing: Split) -> None:
    home, conf = Home(tmp_path / "workspace"), make_conf(tmp_path)
    catalogue = Catalogue(home)
    for number, split in enumerate(split for split in Split if split is not missing):
        add_case(catalogue, number, split)
    with pytest.raises(StateError, match=f"no {missing.value} case"):
        select(work(home, conf, 1))


def test_selecting_twice_changes_nothing(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    select(work(home, conf, 1))
    before = RoundFolder(home, 1).manifest_sha256()
    assert "is there" in select(work(home, conf, 1))
    assert RoundFolder(home, 1).manifest_sha256() == before


def test_an_image_that_trains_is_not_scored_under_another_name(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    add_case(Catalogue(home), 50, Split.TEST, picture_of=0)
    with pytest.raises(DataError, match="case-000 = case-050"):
        select(work(home, conf, 1))
    assert not RoundFolder(home, 1).has("manifest.json")


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    select(work(home, conf, 1))
    manifest = RoundFolder(home, 1).manifest()
    check_images(manifest)
    stranger = manifest.test[0].with_(patient=manifest.cases[0].patient)
    with pytest.raises(DataError, match=manifest.cases[0].patient):
        manifest.with_(test=[stranger.model_dump()]).check_leaks()


@pytest.fixture
def pool(tmp_path: Path) -> list[Case]:
    catalogue = Catalogue(Home(tmp_path / "pool"))
    planned = {3: 2, 7: 2}
    return [
        add_case(catalogue, n, Split.TRAIN, is_annotated=False, planned=planned.get(n))
        for n in range(10)
    ]


def test_cases_planned_for_a_round_come_first(pool: list[Case]) -> None:
    chosen = choose(pool, SelectConfig(cases=3), 2)
    assert [case.at.case_id for case in chosen] == ["case-003", "case-007", "case-000"]


def test_the_strategy_ranks_what_is_uncertain_first(pool: list[Case]) -> None:
    config = SelectConfig(strategy="uncertainty", cases=3)
    chosen = choose(pool, config, 9, Signals(lambda case: float(case.case_id[-1])))
    assert [case.at.case_id for case in chosen] == ["case-009", "case-008", "case-007"]
    assert [case.score for case in chosen] == [9.0, 8.0, 7.0]


def test_the_control_arm_is_random_and_the_rest_the_strategys(pool: list[Case]) -> None:
    config = SelectConfig(strategy="uncertainty", cases=5, control_fraction=0.4)
    chosen = choose(pool, config, 9, Signals(lambda case: float(case.case_id[-1])))
    arms = [case.arm for case in chosen]
    assert arms == ["strategy"] * 3 + ["control"] * 2
    assert len({case.at.case_id for case in chosen}) == 5


def test_random_choice_follows_the_seed_alone(pool: list[Case]) -> None:
    def ids(seed: int, cases: list[Case]) -> list[str]:
        config = SelectConfig(strategy="random", cases=5, seed=seed)
        return [case.at.case_id for case in choose(cases, config, 9)]

    assert ids(1, pool) == ids(1, pool[::-1])
    assert ids(1, pool) != ids(2, pool)


def test_a_patient_gives_no_more_than_the_quota_while_others_are_left(tmp_path: Path) -> None:
    catalogue = Catalogue(Home(tmp_path / "quota"))
    owners = ["a", "a", "a", "a", "b", "b", "c"]
    pool = [
        add_case(catalogue, n, Split.TRAIN, is_annotated=False, patient=patient)
        for n, patient in enumerate(owners)
    ]

    def patients(cases: int, quota: int | None, control: float = 0.0) -> list[str]:
        config = SelectConfig(cases=cases, per_patient=quota, control_fraction=control)
        return [case.patient for case in choose(pool, config, 9)]

    assert patients(4, None) == ["a", "a", "a", "a"]
    assert patients(4, 2) == ["a", "a", "b", "b"]
    assert patients(3, 1) == ["a", "b", "c"]
    assert patients(5, 1) == ["a", "b", "c", "a", "a"], "filled up when no others are left"
    # The control arm counts what the strategy took: both of a's are gone.
    assert sorted(patients(4, 2, control=0.5)[2:]) in (["b", "b"], ["b", "c"])
    assert len(set(patients(6, 1, control=0.5)[:3])) == 3


def looks(cases: Sequence[Case]) -> Float32[np.ndarray, "n d"]:
    """Three kinds of picture by the number of the case: 0-4, 5-7, 8-9."""
    places = [np.searchsorted([4, 7], int(case.case_id[-1])) for case in cases]
    return np.eye(3, dtype=np.float32)[places]


def test_diverse_cases_show_what_no_earlier_round_showed(pool: list[Case]) -> None:
    config = SelectConfig(strategy="diversity", cases=2)
    known = tuple(case for case in pool if case.case_id == "case-000")
    others = [case for case in pool if case not in known]
    chosen = choose(others, config, 9, Signals(describe=looks, known=known))
    assert [case.at.case_id for case in chosen] == ["case-005", "case-008"]


def test_planned_cases_come_first_and_the_others_differ_from_them(pool: list[Case]) -> None:
    config = SelectConfig(strategy="diversity", cases=3)
    first, second, third = choose(pool, config, 2, Signals(describe=looks))
    assert {first.at.case_id, second.at.case_id} == {"case-003", "case-007"}
    assert third.at.case_id == "case-008"


def test_the_least_sure_that_differ_are_chosen_with_a_control_arm(pool: list[Case]) -> None:
    config = SelectConfig(strategy="uncertainty+diversity", cases=5, control_fraction=0.2)
    signals = Signals(lambda case: float(case.case_id[-1]), looks)
    chosen = choose(pool, config, 9, signals)
    assert [case.arm for case in chosen] == ["strategy"] * 4 + ["control"]
    # The least sure of each kind, the largest kind first, then the next of the largest.
    assert [case.at.case_id for case in chosen[:4]] == [f"case-00{n}" for n in (4, 7, 9, 3)]
    assert [case.score for case in chosen[:4]] == [4.0, 7.0, 9.0, 3.0]


@pytest.mark.parametrize("strategy", ["diversity", "uncertainty+diversity"])
def test_a_round_is_chosen_by_the_promoted_models_own_eyes_and_again_the_same(
    tmp_path: Path, strategy: str
) -> None:
    home, conf = make_workspace(tmp_path, new=6), make_conf(tmp_path, cases=3)
    select(work(home, conf, 1))
    asked = work(home, conf, 2, f"select.strategy={strategy}", "select.per_patient=1")
    select(asked)
    folder = RoundFolder(home, 2)
    first = folder.manifest()
    assert first.strategy == strategy
    assert (first.cases[0].score is not None) == strategy.startswith("uncertainty")
    kept = {path: path.stat().st_mtime_ns for path in home.descriptors.rglob("*.safetensors")}
    assert {path.parent.name for path in kept} == {"small"}
    # Every case of the pool and every one chosen before was looked at, once.
    assert sorted(path.stem for path in kept) == [f"case-00{n}" for n in range(10)]
    folder.file("manifest.json").unlink()
    select(work(home, conf, 2, f"select.strategy={strategy}", "select.per_patient=1"))
    assert folder.manifest().cases == first.cases
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_round_1_can_be_diverse_by_the_bare_base(tmp_path: Path) -> None:
    home, conf = make_workspace(tmp_path, bootstrap=6), make_conf(tmp_path)
    select(work(home, conf, 1, "select.strategy=diversity", "select.cases=3"))
    assert len(RoundFolder(home, 1).manifest().cases) == 3
    assert len(list((home.descriptors / "small").glob("*.safetensors"))) == 6


def test_a_torn_descriptor_is_named_and_one_of_another_picture_is_made_again(
    tmp_path: Path,
) -> None:
    home, conf = make_workspace(tmp_path), make_conf(tmp_path)
    select(work(home, conf, 1))
    asked = work(home, conf, 2, "select.strategy=diversity")
    cases = list(asked.catalogue.cases(split=Split.TRAIN))
    before = describing(asked)(cases)
    path = home.descriptors / "small" / "case-001.safetensors"
    whole = path.read_bytes()
    changed = [
        case.with_(image_sha256="0" * 64) if case.case_id == "case-001" else case for case in cases
    ]
    np.testing.assert_array_equal(describing(asked)(changed), before)
    assert path.read_bytes() != whole
    path.write_bytes(whole[:40])
    with pytest.raises(DataError, match=r"case-001\.safetensors.*remove it"):
        describing(asked)(cases)
