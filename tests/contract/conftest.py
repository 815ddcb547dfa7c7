"""Fixtures of the contract tests: a CVAT, a round to bring there, and its plan.

CVAT_URL with CVAT_ACCESS_TOKEN, or with CVAT_USER and CVAT_PASSWORD, names a live server; what
the tests make there is deleted at the end.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from casebook.rounds import RoundFolder
from cvat_sync.gateway import CvatGateway
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import CONFIG, call
from tests.contract.cvat_servers import standin
from tests.fakes.cvat_round import make_round


@pytest.fixture(scope="module")
def standin_access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    with standin(tmp_path_factory.mktemp("standin")) as access:
        yield access


@pytest.fixture(params=["standin", pytest.param("live", marks=pytest.mark.cvat)])
def access(request: pytest.FixtureRequest) -> Access:
    if request.param == "standin":
        found: Access = request.getfixturevalue("standin_access")
        return found
    live = live_access()
    if live is None:
        pytest.skip("no live CVAT: set CVAT_URL, and CVAT_ACCESS_TOKEN or CVAT_USER, CVAT_PASSWORD")
    return live


def live_access() -> Access | None:
    """The live server the environment names, if it does."""
    found = {name: os.environ.get(f"CVAT_{name}") for name in ("URL", "USER", "PASSWORD")}
    token = os.environ.get("CVAT_ACCESS_TOKEN")
    if not found["URL"] or not (token or (found["USER"] and found["PASSWORD"])):
        return None
    url = found["URL"].rstrip("/")
    if token:
        return Access(url=url, token=token)
    return Access(url=url, user=found["USER"], password=found["PASSWORD"])


@pytest.fixture
def gateway(access: Access) -> Iterator[CvatGateway]:
    with CvatGateway(access) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    return make_round(tmp_path)


@pytest.fixture
def plan(folder: RoundFolder, access: Access, request: pytest.FixtureRequest) -> Iterator[PushPlan]:
    """A plan with a project of this test alone, which is deleted afterwards."""
    name = f"angioloop test {request.node.name} {folder.path.parent.parent.name}"
    config = CONFIG.with_(project=name)
    proposals = Proposals(folder.file("proposals.coco.json"))
    yield plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)
    for project in call(access, "GET", "/api/projects?page_size=100")["results"]:
        if project["name"] == name:
            call(access, "DELETE", f"/api/projects/{project['id']}")
