"""A simulated expert works through a pushed round, and the pull tells what it did."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import read_annotations
from casebook.cases import FrameRef
from cvat_sync.gateway import CvatGateway, retrying
from cvat_sync.plan import plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.pull import pull
from cvat_sync.push import push
from cvat_sync.settings import Access, ExchangeConfig
from demo.expert import Desk, Effort, Expert, Habits
from tests.contract.cvat_servers import SaidFunction, said_function, standin
from tests.fakes.cvat_round import bar, make_round, ref

TRUTH = {0: bar(10), 1: bar(10), 2: bar(20), 3: bar(20), 4: bar(20)}
"""Proposals lie at row 10 on all frames but the last, which has none."""


def truth(at: FrameRef) -> dict[str, Bool[np.ndarray, "h w"]]:
    return {"LAD": TRUTH[int(at.case_id.rpartition("-")[2])]}


@pytest.fixture(scope="module")
def function() -> Iterator[SaidFunction]:
    with said_function() as running:
        yield running


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory, function: SaidFunction) -> Iterator[Access]:
    option = f"test-interactor={function.url}"
    with standin(tmp_path_factory.mktemp("standin"), "--function", option) as found:
        yield found


def test_accepted_corrected_drawn_and_rejected_frames_come_back_as_such(
    tmp_path: Path, access: Access, function: SaidFunction
) -> None:
    folder = make_round(tmp_path)
    config = ExchangeConfig(project="expert", frames_per_task=3, frames_per_job=2)
    proposals = Proposals(folder.file("proposals.coco.json"))
    plan = plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)
    good = [float(number) for number in masks.to_cvat(bar(20, width=29))]
    function.answer = {"shapes": [{"type": "mask", "points": good, "attributes": []}]}
    habits = Habits(function="test-interactor", reject_share=0.0, effort=Effort(look=10, box=5))
    with CvatGateway(access) as gateway:
        pushed = push(
            folder,
            plan,
            folder.manifest(),
            proposals,
            gateway,
            url=access.url,
            retrying=retrying,
            parallel=2,
        )
        with Desk(access.url, str(access.token)) as desk:
            tally = Expert(desk, truth, habits).work("expert", lambda _text: None)
        result = pull(folder, pushed, gateway, parallel=2)
    assert (tally.accepted, tally.refined, tally.drawn) == (2, 2, 1)
    corrections = result.corrections
    assert corrections.count("accepted") == 2
    assert corrections.count("added") == 3, "a mask with no common pixel is a new one"
    assert corrections.count("deleted") == 2
    assert len(function.asked) == tally.interactor_calls == 3
    assert (result.effort.source, result.effort.is_simulated) == ("working time events", True)
    assert result.effort.seconds == pytest.approx(5 * 10 + 3 * 5)


def test_an_expert_who_rejects_everything_leaves_no_mask(tmp_path: Path, access: Access) -> None:
    folder = make_round(tmp_path)
    proposals = Proposals(folder.file("proposals.coco.json"))
    config = ExchangeConfig(project="strict expert")
    plan = plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)
    with CvatGateway(access) as gateway:
        manifest = folder.manifest()
        pushed = push(
            folder,
            plan,
            manifest,
            proposals,
            gateway,
            url=access.url,
            retrying=retrying,
            parallel=1,
        )
        with Desk(access.url, str(access.token)) as desk:
            Expert(desk, truth, Habits(reject_share=1.0)).work("strict expert", print)
        result = pull(folder, pushed, gateway, parallel=1)
    assert result.corrections.rejected == tuple(ref(number) for number in range(5))
    sealed = read_annotations(folder.file("annotations.coco.json"))
    assert sealed.annotations == ()
    assert {image.reason for image in sealed.images} == {"unusable frame"}
