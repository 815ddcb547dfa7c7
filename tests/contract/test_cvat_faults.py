"""A server that fails, hangs, goes away or changes its mind: the same end, or one honest line."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bench.cvat import AIMS, Tally, kill_figures, pull_figures, there_and_back
from casebook.errors import AccessError, RemoteError, UnreachableError
from casebook.home import locked
from casebook.rounds import RoundFolder
from cvat_sync import gateway as module
from cvat_sync.cli import main
from cvat_sync.gateway import CvatGateway
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.pushed import need_pushed
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
    monkeypatch.setattr(module, "TIMEOUT_S", 1.0)
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
    """A gateway whose server, at the n-th task, refuses the token or is gone."""

    def __init__(self, gateway: CvatGateway, problem: RemoteError) -> None:
        self._gateway, self._problem = gateway, problem
        self._lock = threading.Lock()
        self._left = 1

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._gateway, name)
        if name != "create_task":
            return method

        def once(*args: Any, **options: Any) -> Any:
            with self._lock:
                self._left -= 1
                if self._left < 0:
                    raise self._problem
            return method(*args, **options)

        return once


def test_a_token_that_expires_on_the_way_keeps_what_was_done(
    folder: RoundFolder, small_plan: PushPlan, tmp_path: Path
) -> None:
    with standin(tmp_path / "server") as access, CvatGateway(access) as gateway:
        ending = Ending(gateway, AccessError("create task: CVAT refused the credentials (401)"))
        with pytest.raises(AccessError, match="refused"):
            push_it(folder, small_plan, ending, access)
        kept = {task.id for task in gateway.tasks(gateway.projects()[0].id)}
        pushed = push_it(folder, small_plan, gateway, access)
        assert kept <= {task.task_id for task in pushed.tasks}
        complete(access, gateway, pushed)
    with standin(tmp_path / "server") as access:  # the same data, other address
        with (
            pytest.raises(AccessError, match="refused the credentials"),
            CvatGateway(access.with_(token="expired")) as gateway,
        ):
            pull_it(folder, pushed, gateway)
        with CvatGateway(access) as gateway:
            assert pull_it(folder, pushed, gateway).corrections.count("accepted") == 4


def test_a_server_that_goes_away_on_the_way_is_told_and_the_next_push_resumes(
    folder: RoundFolder, small_plan: PushPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 2)
    with standin(tmp_path / "server") as access, CvatGateway(access) as gateway:
        ending = Ending(gateway, UnreachableError("no answer from CVAT"))
        with pytest.raises(UnreachableError, match="no answer"):
            push_it(folder, small_plan, ending, access)
        assert not folder.has("pushed.json")
    with standin(tmp_path / "server") as access, CvatGateway(access) as gateway:
        pushed = push_it(folder, small_plan, gateway, access)
        expected = {task.key: (len(task.frames), task.masks) for task in small_plan.tasks}
        assert end_state(gateway, pushed.project_id) == expected


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
        CvatGateway(secure),
    ):
        pass


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
    assert "pull_client_cpu_ratio" in AIMS
