"""The plan of a push is a pure function of the round's files."""

from pathlib import Path

import pytest

from casebook.annotations import AnnotationSetBuilder, read_annotations
from casebook.cases import FrameRef
from casebook.errors import DataError
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.settings import ExchangeConfig
from tests.fakes.cvat_round import HW, LABELS, make_round


def plan(root: Path, *, frames_per_task: int = 2, n_cases: int = 5) -> PushPlan:
    folder = make_round(root, n_cases)
    proposals = read_annotations(folder.file("proposals.coco.json"))
    config = ExchangeConfig(frames_per_task=frames_per_task)
    return plan_push(folder.manifest(), "0123456789abcdef", proposals, config)


@pytest.mark.parametrize(
    ("n_cases", "frames_per_task", "sizes"),
    [
        pytest.param(5, 2, [2, 2, 1], id="a rest"),
        pytest.param(4, 2, [2, 2], id="no rest"),
        pytest.param(3, 25, [3], id="one task"),
    ],
)
def test_frames_are_cut_into_tasks_in_the_order_of_their_names(
    tmp_path: Path, n_cases: int, frames_per_task: int, sizes: list[int]
) -> None:
    made = plan(tmp_path, n_cases=n_cases, frames_per_task=frames_per_task)
    assert [len(task.frames) for task in made.tasks] == sizes
    names = [name for task in made.tasks for name in task.frames]
    assert names == sorted(names)
    assert len(set(names)) == n_cases


def test_every_task_has_a_key_of_its_own_that_names_round_and_manifest(tmp_path: Path) -> None:
    keys = [task.key for task in plan(tmp_path).tasks]
    assert keys == [f"angioloop:round-02:0123456789ab:{part:03d}" for part in (1, 2, 3)]


def test_planning_twice_gives_the_same_plan(tmp_path: Path) -> None:
    assert plan(tmp_path / "a").tasks == plan(tmp_path / "b").tasks


def test_the_plan_says_what_it_would_do(tmp_path: Path) -> None:
    text = "\n".join(plan(tmp_path).lines())
    assert "3 tasks, 5 frames" in text
    assert "4 proposed masks (LAD 4); 1 frames without a proposal" in text


def test_a_proposal_for_a_stranger_is_refused(tmp_path: Path) -> None:
    folder = make_round(tmp_path)
    builder = AnnotationSetBuilder(LABELS)
    builder.add_image(FrameRef(case_id="stranger", frame=0), HW)
    with pytest.raises(DataError, match="stranger"):
        plan_push(folder.manifest(), "0" * 64, builder.build(), ExchangeConfig())
