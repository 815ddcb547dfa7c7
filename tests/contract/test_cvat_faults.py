"""A server that fails, hangs, goes away or changes its mind: the same end, or one honest line."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tenacity import wait_none

from bench.cvat import AIMS, Tally, kill_figures, memory_figures, pull_figures, there_and_back
from casebook.errors import AccessError, RemoteError, UnreachableError
from casebook.home import locked
from casebook.rounds import RoundFolder
from cvat_sync import gateway as module
from cvat_sync.cli import main
from cvat_sync.gateway import CvatGateway
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.pushed import need_pushed
from cvat_sync.remote import NewTask, RemoteAnnotations
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import CONFIG, complete, end_state, pull_it, push_it
from tests.contract.cvat_servers import PASSWORD, TOKEN, USER, standin
from tests.fakes.cvat_round import make_round


@pytest.fixture
def small_plan(folder: RoundFolder) -> PushPlan:
    proposals = Proposals(folder.file("proposals.coco.json"))
    return plan_push(folder.manifest(), folder.manifest_sha256(), proposals, CONFIG)


def test_five_percent_of_failures_change_nothing(tmp_path: Path) -> None:
    tally = Tally()
    with standin(tmp_path, "--fault-rate", "0.05", "--fault-seed", "8") as access:
        there_and_back(access, tally, None)
    assert (tally.duplicates, tally.lost, tally.torn) == (0, 0, 0)


def test_requests_that_hang_are_given_up_and_made_again(
    folder: RoundFolder, small_plan: PushPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 2.0)
    with (
        standin(tmp_path / "server", "--hang-rate", "0.08", "--fault-seed", "5") as access,
        CvatGateway(access) as gateway,
    ):
        pushed = push_it(folder, small_plan, gateway, access)
        expected = {task.key: (len(task.frames), task.masks) for task in small_plan.tasks}
        assert end_state(gateway, pushed.project_id) == expected


def test_kills_at_random_instants_leave_nothing_twice_lost_or_torn() -> None:
    figures = kill_figures(quick=True)
    assert figures["kills"] is not None
    assert figures["kills"] >= 6
    assert (figures["duplicates"], figures["lost"], figures["torn"]) == (0, 0, 0)


class Ending:
    """A gateway whose server comes to an end just before the second task."""

    def __init__(self, gateway: CvatGateway, end: Callable[[], object]) -> None:
        self._gateway, self._end = gateway, end
        self._lock = threading.Lock()
        self._made = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)
        if name != "create_task":
            return method

        def once(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._made += 1
                if self._made == 2:
                    self._end()
            return method(*args, **options)

        return once


def withdraw_tokens(server: Path) -> None:
    """What an administrator does, or a token's last day."""
    with closing(sqlite3.connect(server / "data" / "standin.sqlite", timeout=30)) as store, store:
        store.execute("DELETE FROM tokens")


def test_a_token_that_expires_on_the_way_keeps_what_was_done(
    folder: RoundFolder, small_plan: PushPlan, tmp_path: Path
) -> None:
    server = tmp_path / "server"
    with standin(server) as access, CvatGateway(access) as gateway:
        ending = Ending(gateway, lambda: withdraw_tokens(server))
        with pytest.raises(AccessError, match=r"refused the credentials .401.*so far is kept"):
            push_it(folder, small_plan, ending, access)
        assert not folder.has("pushed.json")
        again = Access(url=access.url, user=USER, password=PASSWORD)
        with CvatGateway(again) as entered:
            kept = {task.id for task in entered.tasks(entered.projects()[0].id) if task.n_frames}
            pushed = push_it(folder, small_plan, entered, again)
            assert kept <= {task.task_id for task in pushed.tasks}
    with standin(server) as access:  # the same data, other address; the token is given anew
        with CvatGateway(access) as gateway:
            complete(access, gateway, pushed)
            withdraw_tokens(server)
            with pytest.raises(AccessError, match="refused the credentials"):
                pull_it(folder, pushed, gateway)
        again = Access(url=access.url, user=USER, password=PASSWORD)
        with CvatGateway(again) as entered:
            assert pull_it(folder, pushed, entered).corrections.count("accepted") == 4


def test_a_server_that_goes_away_on_the_way_is_told_and_the_next_push_resumes(
    folder: RoundFolder, small_plan: PushPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    started: list[subprocess.Popen[bytes]] = []
    with standin(tmp_path / "server", started=started) as access, CvatGateway(access) as gateway:

        def kill() -> None:
            started[0].kill()
            started[0].wait()

        ending = Ending(gateway, kill)
        with pytest.raises(UnreachableError, match="no answer from CVAT at http"):
            push_it(folder, small_plan, ending, access)
        assert not folder.has("pushed.json")
    (tmp_path / "server" / "port").unlink()  # which a killed server leaves
    with standin(tmp_path / "server") as access, CvatGateway(access) as gateway:
        pushed = push_it(folder, small_plan, gateway, access)
        expected = {task.key: (len(task.frames), task.masks) for task in small_plan.tasks}
        assert end_state(gateway, pushed.project_id) == expected


class Scripted:
    """An HTTP server that gives one answer for ever, and counts how often it was asked."""

    def __init__(self, status: int) -> None:
        self.asked = 0
        told = self

        class Requests(BaseHTTPRequestHandler):
            def answer(self) -> None:
                told.asked += 1
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST = do_PUT = answer  # noqa: N815 - http.server's names

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self.access = Access(url=f"http://127.0.0.1:{self.server.server_port}", token=TOKEN)


@pytest.mark.parametrize(
    ("status", "reads", "writes", "sends"),
    [
        pytest.param(400, 1, 1, 1, id="refused"),
        pytest.param(401, 1, 1, 1, id="credentials"),
        pytest.param(404, 1, 1, 1, id="not there"),
        pytest.param(409, 1, 1, 1, id="conflict"),
        pytest.param(429, 3, 3, 1, id="too many requests"),
        pytest.param(500, 3, 1, 1, id="a server's bug"),
        pytest.param(502, 3, 3, 1, id="bad gateway"),
        pytest.param(503, 3, 3, 1, id="busy"),
        pytest.param(504, 3, 3, 1, id="gateway timeout"),
    ],
)
def test_only_what_may_pass_is_tried_again_and_only_where_it_does_no_harm(
    status: int, reads: int, writes: int, sends: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 3)
    monkeypatch.setattr(module, "wait_random_exponential", lambda **_: wait_none())
    scripted = Scripted(status)
    thread = threading.Thread(target=scripted.server.serve_forever, args=(0.02,))
    thread.start()
    gateway = CvatGateway(scripted.access)
    actions: dict[str, Callable[[], object]] = {
        "read": lambda: gateway.read("read", "/api/tasks/1"),
        "replace": lambda: gateway.replace_annotations(1, RemoteAnnotations()),
        "send": lambda: gateway.send("send", "POST", "/api/issues", {}),
        "create": lambda: gateway.create_task(NewTask(1, "name", "key", {}, 5)),
    }
    asked = {}
    try:
        for name, action in actions.items():
            scripted.asked = 0
            with pytest.raises(RemoteError, match=f"{scripted.access.url}.*{status}"):
                action()
            asked[name] = scripted.asked
    finally:
        gateway.close()
        scripted.server.shutdown()
        thread.join()
        scripted.server.server_close()
    assert asked == {"read": reads, "replace": writes, "send": sends, "create": sends}


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    """A round for the commands, with a server nobody answers at."""
    monkeypatch.setenv("ANGIOLOOP_CVAT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", TOKEN)
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path))
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    (tmp_path / "conf").mkdir()
    return make_round(tmp_path)


def cvatsync(folder: RoundFolder, *arguments: str) -> Result:
    conf = ["--conf", str(folder.home.root / "conf")]
    return CliRunner().invoke(main, [*arguments, *conf], catch_exceptions=False)


def test_the_status_says_when_cvat_was_not_asked_or_does_not_answer(
    typed: RoundFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = cvatsync(typed, "status", "--round", "2")
    assert result.exit_code == 0
    assert "it is not pushed, so CVAT was not asked" in result.stdout
    with standin(tmp_path / "server") as access:
        monkeypatch.setenv("ANGIOLOOP_CVAT_URL", access.url)
        assert cvatsync(typed, "push", "--round", "2").exit_code == 0
    result = cvatsync(typed, "status", "--round", "2")
    assert result.exit_code == 10
    assert "round 02: pushed.json, by its files alone: " in result.stdout
    assert "no answer from CVAT" in result.stdout
    assert cvatsync(typed, "status").stdout == "round 02: pushed.json\n"


def test_two_pushes_at_once_the_second_is_told_whose_the_first_is(typed: RoundFolder) -> None:
    with locked(typed.file(".push.lock"), "a push"):
        result = cvatsync(typed, "push", "--round", "2")
    assert result.exit_code == 7
    assert f"process {os.getpid()}, since" in result.stderr
    assert "min)" in result.stderr


def test_a_full_disk_is_one_line_and_nothing_is_torn(
    typed: RoundFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standin(tmp_path / "server") as access:
        env = {**os.environ, "ANGIOLOOP_CVAT_URL": access.url}
        command = [sys.executable, "-m", "cvat_sync.cli", "push", "--round", "2"]
        command += ["--conf", str(tmp_path / "conf")]
        # A limit on the size of files is what a process sees of a full disk, without filling one.
        full = ["bash", "-c", 'ulimit -f 0; trap "" XFSZ; exec "$@"', "bash", *command]
        told = subprocess.run(full, env=env, capture_output=True, text=True, check=False)
        assert told.returncode == 74, told.stderr
        assert "make room or give access, then run the same command again" in told.stderr
        assert "Traceback" not in told.stderr
        assert not typed.has("pushed.json")
        subprocess.run(command, env=env, check=True, capture_output=True)
        with CvatGateway(access) as gateway:
            pushed = need_pushed(typed)
            assert len(gateway.tasks(pushed.project_id)) == len(pushed.tasks)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of its own authority, for 127.0.0.1."""
    place = tmp_path_factory.mktemp("tls")
    cert, key = place / "cert.pem", place / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=angioloop test", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def secure(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[Access]:
    cert, key = certificate
    options = ("--certificate", str(cert), "--private-key", str(key))
    with standin(tmp_path_factory.mktemp("secure"), *options) as access:
        yield access.with_(url=access.url.replace("http://", "https://"))


def test_a_certificate_nobody_vouches_for_is_refused_at_once(secure: Access) -> None:
    with (
        pytest.raises(AccessError, match=r"is not trusted .*ANGIOLOOP_CVAT_CA_FILE"),
        CvatGateway(secure) as gateway,
    ):
        gateway.projects()


def test_a_given_authority_is_trusted(secure: Access, certificate: tuple[Path, Path]) -> None:
    for access in (
        secure.with_(ca_file=certificate[0]),
        secure.with_(ca_file=certificate[0], token=None, user=USER, password=PASSWORD),
    ):
        with CvatGateway(access) as gateway:
            assert "stand-in" in gateway.about()


def test_the_bench_measures_what_it_names_and_checks_the_answers() -> None:
    figures = pull_figures(quick=True)
    assert set(figures) == {"pull_client_cpu_ratio", "pull_cpu_ms_per_mask"}
    assert all(value is not None and value > 0 for value in figures.values())
    figures = memory_figures(quick=True)
    assert set(figures) == {"rss_10k_over_400", "rss_mb"}
    assert figures["rss_10k_over_400"] is not None
    assert figures["rss_10k_over_400"] <= 1.1
    assert {"pull_client_cpu_ratio", "rss_10k_over_400"} <= set(AIMS)
