"""The plan of a push is a pure function of the round's files."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from casebook.annotations import AnnotationSetBuilder, write_annotations
from casebook.cases import FrameRef
from casebook.errors import DataError
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.settings import ExchangeConfig, Validation
from tests.fakes.cvat_round import HW, LABELS, make_round


def plan(root: Path, *, frames_per_task: int = 2, n_cases: int = 5) -> PushPlan:
    folder = make_round(root, n_cases)
    proposals = Proposals(folder.file("proposals.coco.json"))
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
    path = tmp_path / "strange.json"
    write_annotations(path, builder.build())
    with pytest.raises(DataError, match="stranger"):
        plan_push(folder.manifest(), "0" * 64, Proposals(path), ExchangeConfig())


def test_the_plan_says_whose_turn_it_is_and_how_the_work_is_checked(tmp_path: Path) -> None:
    folder = make_round(tmp_path)
    config = ExchangeConfig(
        frames_per_task=4,
        frames_per_job=2,
        assignees=("kim", "lee"),
        replicas=2,
        validation=Validation(mode="ground_truth", share=0.25),
        link="https://lab/rounds/2",
    )
    proposals = Proposals(folder.file("proposals.coco.json"))
    made = plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)
    text = "\n".join(made.lines())
    assert "3 jobs in turn to kim, lee" in text
    assert "2 replicas of every job" in text
    assert "ground truth: 25% of each task's frames" in text
    assert [task.first_job for task in made.tasks] == [0, 2]
    assert made.task_link(made.tasks[0]) == f"https://lab/rounds/2#{made.tasks[0].key}"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        pytest.param({"replicas": 1}, "replicas is 1", id="one replica"),
        pytest.param({"assignees": ["a", "a"]}, "twice", id="one assignee twice"),
        pytest.param({"assignees": ["a"], "replicas": 2}, "one person", id="too few people"),
        pytest.param(
            {"replicas": 2, "validation": {"mode": "honeypots"}}, "exclude", id="both checks"
        ),
        pytest.param({"link": "https://lab#part"}, "link", id="a link with a mark"),
    ],
)
def test_settings_that_cannot_be_are_refused(values: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ExchangeConfig.model_validate(values)
