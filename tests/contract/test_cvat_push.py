"""How a push goes about it: what is drawn ahead, and how many tasks send frames at a time."""

import threading
from pathlib import Path
from typing import Any

import pytest

from casebook.annotations import read_annotations
from casebook.errors import DataError
from casebook.rounds import RoundFolder
from cvat_sync import gateway as module
from cvat_sync.gateway import CvatGateway, retrying
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.push import push
from cvat_sync.settings import Access, ExchangeConfig
from tests.contract.cvat_rounds import push_it
from tests.fakes.cvat_round import make_round


def test_a_damaged_proposal_is_named(
    folder: RoundFolder, plan: PushPlan, gateway: CvatGateway, access: Access
) -> None:
    path = folder.file("proposals.coco.json")
    first, *others = read_annotations(path).annotations
    torn = first.with_(segmentation=first.segmentation.with_(counts="0"))
    whole = read_annotations(path).with_(annotations=(torn, *others))
    path.write_text(whole.model_dump_json())
    says = r"LAD on case-000\.f00003\.png cannot be sent: mask runs add up .* and push again"
    with pytest.raises(DataError, match=says):
        push_it(folder, plan, gateway, access)
    assert not folder.has("pushed.json")


def test_three_tasks_send_frames_at_a_time(
    tmp_path: Path, standin_access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits inside for two others: with fewer nobody would leave, with more all would pile."""
    folder = make_round(tmp_path, 9)
    config = ExchangeConfig(project=f"slots {tmp_path}", frames_per_task=1, parallel=9)
    proposals = Proposals(folder.file("proposals.coco.json"))
    plan = plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)
    once, gate, lock = module._send_frames, threading.Barrier(3), threading.Lock()
    inside: list[int] = [0]

    def counted(*arguments: Any) -> bytes:
        with lock:
            inside.append(inside[-1] + 1)
        gate.wait(timeout=300)
        try:
            return once(*arguments)
        finally:
            with lock:
                inside.append(inside[-1] - 1)

    monkeypatch.setattr(module, "_send_frames", counted)
    with CvatGateway(standin_access) as gateway:
        push(
            folder,
            plan,
            folder.manifest(),
            proposals,
            gateway,
            url=standin_access.url,
            retrying=retrying,
            parallel=config.parallel,
        )
    assert max(inside) == 3
