"""The watch as a process, told by the stand-in's signed webhooks: duplicates, disorder, kills."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from casebook.documents import read_document
from casebook.rounds import RoundFolder
from cvat_sync.cli import main
from cvat_sync.deliveries import sign
from cvat_sync.gateway import CvatGateway
from cvat_sync.pushed import Pushed, need_pushed
from cvat_sync.settings import Access
from cvat_sync.watch import STATE, WatchState
from tests.contract.cvat_rounds import call, complete
from tests.contract.cvat_servers import standin
from tests.fakes.cvat_round import make_round

SECRET = "a-secret-both-sides-know"
LIMIT_S = 300.0


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A stand-in whose deliveries come twice, or late, four times in ten."""
    folder = tmp_path_factory.mktemp("standin")
    with standin(folder, "--webhook-disorder", "0.4", "--fault-seed", "3") as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    """A pushed round that is pulled, but not trained, when all is completed."""
    monkeypatch.setenv("ANGIOLOOP_CVAT_URL", access.url)
    monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", str(access.token))
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path))
    monkeypatch.setenv("ANGIOLOOP_WEBHOOK_SECRET", SECRET)
    (tmp_path / "conf").mkdir()
    text = f"project: {tmp_path.name}\nframes_per_job: 1\nwatch: {{train: false}}\n"
    (tmp_path / "conf" / "cvat.yaml").write_text(text)
    found = make_round(tmp_path)
    push = ["push", "--round", "2", "--conf", str(tmp_path / "conf")]
    assert CliRunner().invoke(main, push, catch_exceptions=False).exit_code == 0
    return found


@dataclass
class Service:
    process: "subprocess.Popen[str]"
    url: str

    def health(self) -> Any:
        with urllib.request.urlopen(f"{self.url}/healthz", timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def sight(self) -> Any:
        return self.health()["sight"]

    def post(self, body: bytes, signature: str | None) -> tuple[int, Any]:
        headers = {} if signature is None else {"X-Signature-256": signature}
        request = urllib.request.Request(  # noqa: S310 - an address of ours
            f"{self.url}/cvat", data=body, headers=headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.load(refusal)


def command(folder: RoundFolder, *options: str) -> list[str]:
    conf = str(folder.home.root / "conf")
    return [sys.executable, "-m", "cvat_sync.cli", "watch", "--conf", conf, "--port", *options]


@contextmanager
def watching(folder: RoundFolder, *options: str, port: int = 0) -> Iterator[Service]:
    process = subprocess.Popen(
        command(folder, str(port), *options), stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"health at (http://\S+)/healthz", said)):
            line = process.stderr.readline()
            assert line, f"the watch stopped: {said}"
            said += line
        yield Service(process, found[1])
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=60)
        process.stderr.close()


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT_S:.0f} s for: {what}"
        time.sleep(0.05)


def register(access: Access, pushed: Pushed, url: str, secret: str = SECRET) -> int:
    spec = {"type": "project", "project_id": pushed.project_id, "secret": secret}
    spec |= {"target_url": f"{url}/cvat", "events": ["update:job"]}
    return int(call(access, "POST", "/api/webhooks", spec)["id"])


def finish(access: Access, pushed: Pushed, keep_open: int = 0) -> None:
    with CvatGateway(access) as gateway:
        complete(access, gateway, pushed, keep_open)


def statuses(access: Access, webhook_id: int) -> list[int]:
    path = f"/api/webhooks/{webhook_id}/deliveries?page_size=100"
    return [entry["status_code"] for entry in call(access, "GET", path)["results"]]


def test_finished_jobs_are_pulled_whatever_the_order_of_deliveries(
    folder: RoundFolder, access: Access
) -> None:
    pushed = need_pushed(folder)
    with watching(folder) as service:
        until(lambda: service.sight()["stage"] == "waiting", "the first look")
        webhook_id = register(access, pushed, service.url)
        finish(access, pushed, keep_open=1)
        until(lambda: service.sight()["completed"] == 4, "four of five frames")
        assert not folder.has("annotations.coco.json")
        finish(access, pushed)
        until(lambda: service.sight()["stage"] == "done", "the pull")
        until(lambda: len(statuses(access, webhook_id)) >= 9, "all deliveries")
    assert set(statuses(access, webhook_id)) <= {200, 202}
    assert 200 in statuses(access, webhook_id), "no duplicate was sent: the test shows less"
    assert folder.has("annotations.coco.json")
    assert read_document(folder.file(STATE), WatchState).stage == "done"


def test_a_killed_watch_finds_what_was_finished_meanwhile(
    folder: RoundFolder, access: Access
) -> None:
    pushed = need_pushed(folder)
    with watching(folder) as service:
        register(access, pushed, service.url)
        finish(access, pushed, keep_open=2)
        until(lambda: service.sight()["completed"] == 3, "three of five frames")
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(timeout=60)
    finish(access, pushed)  # its deliveries find nobody
    with watching(folder) as service:
        until(lambda: service.sight()["stage"] == "done", "the pull")
    assert folder.has("annotations.coco.json")


def test_a_polling_watch_needs_no_secret_and_takes_no_delivery(
    folder: RoundFolder, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANGIOLOOP_WEBHOOK_SECRET")
    with watching(folder, "--poll", "0.2") as service:
        assert service.post(b"{}", None)[0] == 404
        finish(access, need_pushed(folder))
        until(lambda: service.sight()["stage"] == "done", "the pull")


def test_bad_deliveries_are_refused_over_http(folder: RoundFolder, access: Access) -> None:
    pushed = need_pushed(folder)
    job = {"id": 1, "task_id": pushed.tasks[0].task_id, "project_id": pushed.project_id}
    recent = {**job, "updated_date": datetime.now(UTC).isoformat()}
    old = {**job, "updated_date": "2020-01-01T00:00:00Z"}
    stranger = {**recent, "project_id": 99_999}

    def body(job: dict[str, object]) -> bytes:
        return json.dumps({"event": "update:job", "job": job}).encode()

    with watching(folder) as service:
        for sent, signature, status in (
            (body(recent), sign("the-secret-of-another", body(recent)), 401),
            (body(recent), None, 401),
            (body(old), sign(SECRET, body(old)), 409),
            (body(stranger), sign(SECRET, body(stranger)), 403),
            (b"not JSON", sign(SECRET, b"not JSON"), 422),
            (b"x" * 300_000, sign(SECRET, b"x" * 300_000), 413),
            (body(recent), sign(SECRET, body(recent)), 202),
            (body(recent), sign(SECRET, body(recent)), 200),
        ):
            found, answer = service.post(sent, signature)
            assert found == status, answer
            assert SECRET not in json.dumps(answer)
        assert service.health()["is_well"]


def test_only_one_watch_runs_in_a_workspace(folder: RoundFolder) -> None:
    with watching(folder):
        second = subprocess.run(
            command(folder, "0"), capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    assert second.returncode == 7
    assert "a watch of this workspace is already running" in second.stderr


def test_the_doctor_tries_the_webhook_that_register_made(
    folder: RoundFolder, access: Access
) -> None:
    def doctor() -> tuple[int, dict[str, str]]:
        result = CliRunner().invoke(main, ["doctor", "--round", "2", "--json"])
        findings = json.loads(result.stdout)["findings"]
        return result.exit_code, {one["what"]: one["level"] for one in findings}

    assert doctor() == (
        0,
        {
            **{"settings": "warn", "server": "ok", "account": "ok", "organisation": "ok"},
            "functions": "warn",
            **{"labels": "ok", "webhook": "warn", "worker": "ok", "workspace": "ok"},
        },
    )
    with watching(folder) as service:
        port = int(service.url.rpartition(":")[2])
    for _ in range(2):  # the second time it is corrected, not made again
        with watching(folder, "--register", f"http://127.0.0.1:{port}/cvat", port=port):
            code, levels = doctor()
            assert (code, levels["webhook"]) == (0, "ok")
    path = f"/api/webhooks?project_id={need_pushed(folder).project_id}"
    assert call(access, "GET", path)["count"] == 1
    code, levels = doctor()
    assert (code, levels["webhook"]) == (1, "fail"), "nobody listens any more"


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        pytest.param(["--host", "203.0.113.1"], 2, "cannot listen", id="host"),
        pytest.param(
            ["--poll", "5", "--register", "http://lab/cvat"], 2, "give one", id="contradiction"
        ),
        pytest.param(["--register", "lab:8070"], 2, "https://lab:8070/cvat", id="address"),
        pytest.param(["--register", "https://lab:8070"], 2, "with the path", id="no path"),
    ],
)
def test_wrong_options_are_told_in_one_line(
    folder: RoundFolder, options: list[str], code: int, says: str
) -> None:
    conf = ["--conf", str(folder.home.root / "conf")]
    result = CliRunner().invoke(main, ["watch", *options, *conf], catch_exceptions=False)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert says in result.stderr


def test_without_a_secret_a_watch_does_not_start(
    folder: RoundFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANGIOLOOP_WEBHOOK_SECRET")
    conf = ["--conf", str(folder.home.root / "conf")]
    result = CliRunner().invoke(main, ["watch", *conf], catch_exceptions=False)
    assert result.exit_code == 2
    assert "ANGIOLOOP_WEBHOOK_SECRET is not set" in result.stderr
