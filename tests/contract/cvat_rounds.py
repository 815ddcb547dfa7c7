"""What the contract tests of push and pull do with a CVAT, and what they find there."""

import base64
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from casebook.rounds import RoundFolder
from cvat_sync.cli import main
from cvat_sync.gateway import CvatGateway, retrying
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.pull import PullResult, pull
from cvat_sync.push import push
from cvat_sync.pushed import Pushed
from cvat_sync.remote import RemoteAnnotations, RemoteShape
from cvat_sync.settings import Access, ExchangeConfig
from tests.fakes.cvat_round import ref

CONFIG = ExchangeConfig(frames_per_task=2, frames_per_job=1, parallel=2)


def set_up(monkeypatch: pytest.MonkeyPatch, access: Access, root: Path, settings: str) -> None:
    """A workspace and a configuration folder as the commands find them; its project is its own."""
    monkeypatch.setenv("ANGIOLOOP_CVAT_URL", access.url)
    monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", str(access.token))
    monkeypatch.setenv("ANGIOLOOP_HOME", str(root))
    (root / "conf").mkdir()
    (root / "conf" / "cvat.yaml").write_text(f"project: {root.name}\n{settings}\n")


def cvatsync(folder: RoundFolder, verb: str, *arguments: str) -> Result:
    """A command on the round, as typed at a shell."""
    conf = [] if verb == "doctor" else ["--conf", str(folder.home.root / "conf")]
    options = ["--round", str(folder.number), *conf, *arguments]
    return CliRunner().invoke(main, [verb, *options], catch_exceptions=False)


def credentials(access: Access) -> str:
    """The header of a token, or of a user and password."""
    if access.token is not None:
        return f"Bearer {access.token}"
    pair = f"{access.user}:{access.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def call(access: Access, method: str, path: str, body: object = None) -> Any:
    """One REST call, as the web page makes it."""
    request = urllib.request.Request(  # noqa: S310 - an address of ours
        f"{access.url}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": credentials(access), "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:  # noqa: S310
        payload = answer.read()
    return json.loads(payload) if payload else None


def planned(folder: RoundFolder, plan: PushPlan, **settings: Any) -> PushPlan:
    """The plan of the test's own project with other settings."""
    config = CONFIG.with_(project=plan.project, **settings)
    proposals = Proposals(folder.file("proposals.coco.json"))
    return plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)


def push_it(folder: RoundFolder, plan: PushPlan, gateway: Any, access: Access) -> Pushed:
    return push(
        folder,
        plan,
        folder.manifest(),
        Proposals(folder.file("proposals.coco.json")),
        gateway,
        url=access.url,
        retrying=retrying,
        parallel=CONFIG.parallel,
    )


def pull_it(folder: RoundFolder, pushed: Pushed, gateway: Any, **options: bool) -> PullResult:
    return pull(folder, pushed, gateway, parallel=CONFIG.parallel, **options)


def complete(access: Access, gateway: CvatGateway, pushed: Pushed, keep_open: int = 0) -> None:
    jobs = [job for task in pushed.tasks for job in gateway.jobs(task.task_id)]
    for job in jobs[: len(jobs) - keep_open]:
        state = {"stage": "acceptance", "state": "completed"}
        call(access, "PATCH", f"/api/jobs/{job.id}", state)


def place_of(pushed: Pushed, number: int) -> tuple[int, int]:
    """Task and frame of a case."""
    for task in pushed.tasks:
        if ref(number).file_name in task.frames:
            return task.task_id, task.frames.index(ref(number).file_name)
    raise AssertionError(number)


def shape(frame: int, label_id: int, points: list[int], type_: str = "mask") -> RemoteShape:
    return RemoteShape(None, frame, label_id, type_, points, "manual")


def with_shapes(
    gateway: CvatGateway,
    pushed: Pushed,
    number: int,
    change: Callable[[int, dict[str, int]], RemoteAnnotations],
) -> None:
    """Let a case's task have other annotations on that case's frame."""
    task_id, frame = place_of(pushed, number)
    labels = {label.name: label.id for label in gateway.labels(pushed.project_id)}
    drawn = gateway.task_annotations(task_id)
    new = change(frame, labels)
    kept = tuple(one for one in drawn.shapes if one.frame != frame)
    gateway.replace_annotations(
        task_id, RemoteAnnotations((*kept, *new.shapes), (*drawn.tags, *new.tags))
    )


def end_state(gateway: CvatGateway, project_id: int) -> dict[str, tuple[int, int]]:
    return {
        task.key: (task.n_frames, len(gateway.task_annotations(task.id).shapes))
        for task in gateway.tasks(project_id)
    }
