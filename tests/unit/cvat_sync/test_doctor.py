"""What the doctor finds, how bad it is, and what it advises."""

import json
from pathlib import Path

import pytest

from casebook.documents import write_document
from casebook.errors import AccessError, AngioloopError, RemoteError
from casebook.home import Home
from casebook.rounds import RoundFolder
from cvat_sync import doctor
from cvat_sync.labels import label_specs
from cvat_sync.plan import project_key
from cvat_sync.remote import RemoteProject
from cvat_sync.rest import Rest
from cvat_sync.webhooks import DESCRIPTION
from tests.fakes.cvat_memory import MemoryCvat, pushed_round
from tests.fakes.cvat_round import LABELS, make_round


class SaidCvat(Rest):
    """Answers what it was told to, by path without the query; an error is raised."""

    def __init__(self) -> None:
        self.said: dict[str, object] = {
            "/api/server/about": {"name": "CVAT", "version": "2.73.0"},
            "/api/users/self": {"username": "expert", "is_superuser": True},
            "/api/lambda/functions": [
                {"id": f"angioloop-{kind}", "kind": kind}
                for kind in ("interactor", "detector", "tracker")
            ],
            "/api/labels": page(*label_specs(LABELS)),
            "/api/webhooks": page(hook()),
            "/api/webhooks/3/ping": {"status_code": 200, "response": ""},
        }

    def read(self, what: str, path: str) -> bytes:
        found = self.said[path.partition("?")[0]]
        if isinstance(found, AngioloopError):
            raise found
        return json.dumps(found).encode()

    def send(self, what: str, method: str, path: str, body: object = None) -> bytes:
        return self.read(what, path)


def page(*entries: object) -> dict[str, object]:
    return {"next": None, "results": list(entries)}


def hook(**changes: object) -> dict[str, object]:
    target = "http://lab:8070/cvat"
    return {"id": 3, "target_url": target, "description": DESCRIPTION, **changes}


@pytest.fixture
def rest() -> SaidCvat:
    return SaidCvat()


@pytest.fixture
def folder(tmp_path: Path) -> RoundFolder:
    found = make_round(tmp_path)
    write_document(found.file("pushed.json"), pushed_round(found, MemoryCvat(found)))
    return found


def levels(folder: RoundFolder | None, rest: SaidCvat) -> dict[str, tuple[str, str]]:
    home = folder.home if folder else Home(Path("nowhere"))
    gateway = MemoryCvat(folder) if folder else MemoryCvat.__new__(MemoryCvat)
    found = doctor.examine(home, folder, gateway, rest)
    return {one.what: (one.level, one.text) for one in found}


def test_all_is_well(folder: RoundFolder, rest: SaidCvat, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    found = levels(folder, rest)
    assert {level for level, _ in found.values()} == {"ok"}
    assert set(found) == {
        *("server", "account", "organisation", "functions"),
        *("labels", "webhook", "worker", "workspace"),
    }
    assert "2.73.0" in found["server"][1]
    assert found["webhook"][1] == "http://lab:8070/cvat answers"


@pytest.mark.parametrize(
    ("path", "answer", "what", "level", "says"),
    [
        pytest.param(
            "/api/server/about",
            {"name": "CVAT", "version": "2.9.1"},
            "server",
            "warn",
            "2.73 and later",
            id="old server",
        ),
        pytest.param(
            "/api/server/about",
            {"name": "CVAT", "version": "develop"},
            "server",
            "warn",
            "develop",
            id="unnumbered server",
        ),
        pytest.param(
            "/api/server/about", ["x"], "server", "fail", "cannot be read", id="not CVAT at all"
        ),
        pytest.param(
            "/api/users/self", AccessError("wrong token"), "account", "fail", "wrong", id="token"
        ),
        pytest.param(
            "/api/lambda/functions", [], "functions", "warn", "make deploy", id="no function"
        ),
        pytest.param(
            "/api/lambda/functions",
            [{"id": "x", "kind": "interactor"}],
            "functions",
            "warn",
            "no detector, no tracker",
            id="interactor only",
        ),
        pytest.param(
            "/api/lambda/functions",
            RemoteError("no Nuclio"),
            "functions",
            "fail",
            "no Nuclio",
            id="serverless part is not up",
        ),
        pytest.param(
            "/api/labels",
            page(*label_specs(LABELS)[1:]),
            "labels",
            "fail",
            "lacks LAD; the next round's push adds them, or do so on the project's page",
            id="label missing",
        ),
        pytest.param(
            "/api/labels",
            page({**label_specs(LABELS)[0], "type": "polygon"}, *label_specs(LABELS)[1:]),
            "labels",
            "fail",
            "LAD as polygon instead of mask; set their type to `any`",
            id="label of a wrong type",
        ),
        pytest.param(
            "/api/labels",
            page({**label_specs(LABELS)[0], "attributes": []}, *label_specs(LABELS)[1:]),
            "labels",
            "warn",
            "LAD/mld, whose values are not shown; the next round's push adds them",
            id="attributes missing",
        ),
        pytest.param("/api/webhooks", page(), "webhook", "warn", "--register", id="no webhook"),
        pytest.param(
            "/api/webhooks",
            page(hook(description="somebody else's")),
            "webhook",
            "warn",
            "--register",
            id="another's webhook",
        ),
        pytest.param(
            "/api/webhooks",
            page(hook(is_active=False)),
            "webhook",
            "fail",
            "switch it on",
            id="webhook off",
        ),
        pytest.param(
            "/api/webhooks/3/ping",
            {"status_code": 502},
            "webhook",
            "fail",
            "ping with 502",
            id="watch away",
        ),
    ],
)
def test_each_trouble_is_told_with_what_to_do(
    folder: RoundFolder, rest: SaidCvat, path: str, answer: object, what: str, level: str, says: str
) -> None:
    rest.said[path] = answer
    found = levels(folder, rest)
    assert found[what][0] == level
    assert says in found[what][1]


def test_what_is_on_this_machine_is_looked_at_though_the_server_is_away(
    folder: RoundFolder, rest: SaidCvat
) -> None:
    rest.said["/api/users/self"] = AccessError("wrong token")
    assert list(levels(folder, rest)) == ["server", "account", "worker", "workspace"]
    rest.said["/api/server/about"] = RemoteError("no answer from CVAT")
    found = levels(folder, rest)
    assert list(found) == ["server", "worker", "workspace"]
    assert found["server"] == ("fail", "no answer from CVAT")


def test_labels_the_coming_push_adds_are_no_failure(tmp_path: Path, rest: SaidCvat) -> None:
    rest.said["/api/labels"] = page(*label_specs(LABELS)[1:])
    folder = make_round(tmp_path)
    cvat = MemoryCvat(folder)
    there = RemoteProject(4, "vessels", project_key(LABELS))
    cvat.projects = lambda: (there,)  # type: ignore[method-assign]
    finding = doctor.check_project(folder, cvat, rest)
    assert (finding.level, finding.text) == ("warn", "project 4 lacks LAD; the push adds them")


def test_before_the_first_push_there_is_nothing_to_compare(tmp_path: Path, rest: SaidCvat) -> None:
    folder = make_round(tmp_path)
    cvat = MemoryCvat(folder)
    cvat.projects = lambda: ()  # type: ignore[method-assign]
    found = {one.what: one for one in doctor.examine(folder.home, folder, cvat, rest)}
    assert "not made yet" in found["labels"].text
    assert found["webhook"].level == "ok"


@pytest.mark.parametrize(
    ("wanted", "level", "says"),
    [(None, "ok", "personal"), ("lab", "ok", "lab"), ("cath", "fail", "(lab); correct")],
)
def test_the_organisation_is_one_of_ours(
    rest: SaidCvat, wanted: str | None, level: str, says: str
) -> None:
    rest.said["/api/organizations"] = page({"slug": "lab"})
    finding = doctor.check_organisation(rest, wanted)
    assert finding.level == level
    assert says in finding.text


def test_a_missing_workspace_is_told(tmp_path: Path) -> None:
    finding = doctor.check_workspace(Home(tmp_path / "none"))
    assert (finding.level, "import cases first" in finding.text) == ("fail", True)


def test_the_worker_is_the_embedded_one_or_a_persons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANGIOLOOP_BROKER", raising=False)
    assert "started when needed" in doctor.check_worker(Home(tmp_path)).text
    monkeypatch.setenv("ANGIOLOOP_BROKER", "redis://queue")
    assert doctor.check_worker(Home(tmp_path)).text == "a broker of your own"


def test_settings_are_told_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGIOLOOP_CVAT_URL", raising=False)
    assert doctor.check_settings().level == "fail"
    monkeypatch.setenv("ANGIOLOOP_CVAT_URL", "https://cvat")
    monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", "secret-word")
    finding = doctor.check_settings()
    assert (finding.level, "secret-word" in finding.text) == ("ok", False)
    monkeypatch.setenv("ANGIOLOOP_CVAT_URL", "http://cvat")
    assert doctor.check_settings().level == "warn"
