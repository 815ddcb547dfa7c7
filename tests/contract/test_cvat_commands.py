"""The commands as a data engineer types them, against the stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from casebook.rounds import RoundFolder
from cvat_sync.commands.options import Bar
from cvat_sync.gateway import CvatGateway
from cvat_sync.pushed import need_pushed
from cvat_sync.remote import RemoteAnnotations, RemoteShape
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import complete, cvatsync, set_up
from tests.contract.cvat_servers import standin
from tests.fakes.cvat_round import make_round


@pytest.fixture
def access(standin_access: Access) -> Access:
    return standin_access


@pytest.fixture
def folder(tmp_path: Path, access: Access, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    set_up(monkeypatch, access, tmp_path, "frames_per_task: 2")
    return make_round(tmp_path)


def test_a_round_goes_there_and_back(folder: RoundFolder, access: Access) -> None:
    planned = cvatsync(folder, "push", "--dry-run")
    assert "3 tasks, 5 frames" in planned.stdout
    assert not folder.has("pushed.json")
    pushed = cvatsync(folder, "push")
    assert pushed.exit_code == 0
    assert "3 tasks, 5 frames, 4 masks" in pushed.stdout
    assert "proposed masks (LAD 4)" in pushed.stderr
    again = cvatsync(folder, "push")
    assert (again.exit_code, again.stdout) == (0, "round 02 is pushed already: 3 tasks\n")
    early = cvatsync(folder, "pull")
    assert early.exit_code == 6
    assert early.stderr.count("\n") == 1
    assert "3 of 3 jobs are not completed" in early.stderr
    with CvatGateway(access) as gateway:
        complete(access, gateway, need_pushed(folder))
    status = json.loads(cvatsync(folder, "status", "--json").stdout)
    assert status["jobs"] == {"completed": 3}
    assert status["open_jobs"] == []
    before = json.loads(cvatsync(folder, "effort", "--json").stdout)
    assert before["source"] == "job dates"
    pulled = cvatsync(folder, "pull")
    assert pulled.exit_code == 0
    assert "4 accepted, 0 refined, 0 added, 0 deleted, 0 frames rejected" in pulled.stdout
    again = cvatsync(folder, "pull")
    assert again.stdout == "round 02 is pulled already; nothing changed in CVAT since\n"
    assert "hours saved" in cvatsync(folder, "effort").stdout
    assert cvatsync(folder, "open").stdout.count("/tasks/") == 3
    opened = json.loads(cvatsync(folder, "open", "--json").stdout)
    assert len(opened["tasks"]) == 3
    assert "round 02: annotations.coco.json" in cvatsync(folder, "status").stdout
    actions = (folder.home.root / "audit.jsonl").read_text()
    assert '"push"' in actions
    assert '"pull"' in actions


def test_what_is_left_out_is_told(folder: RoundFolder, access: Access) -> None:
    cvatsync(folder, "push")
    with CvatGateway(access) as gateway:
        pushed = need_pushed(folder)
        labels = {label.name: label.id for label in gateway.labels(pushed.project_id)}
        damaged = RemoteShape(None, 0, labels["RCA"], "mask", [9, 0, 0, 2, 2])
        task_id = pushed.tasks[0].task_id
        drawn = gateway.task_annotations(task_id)
        gateway.replace_annotations(task_id, RemoteAnnotations((*drawn.shapes, damaged)))
        complete(access, gateway, pushed, keep_open=1)
        (waiting,) = [job.id for job in gateway.jobs(pushed.tasks[-1].task_id)]
    result = cvatsync(folder, "pull", "--allow-incomplete")
    assert result.exit_code == 0
    assert "case-000.f00003.png, RCA" in result.stderr
    assert f"jobs that are not completed: {waiting}" in result.stderr
    assert folder.has("annotations.coco.json")


def test_a_dry_run_asks_nobody_for_anything(folder: RoundFolder) -> None:
    folder.file("proposals.coco.json").unlink()
    result = cvatsync(folder, "push", "--dry-run")
    assert "would ask a worker to propose" in result.stdout
    result = cvatsync(folder, "push", "--dry-run", "--json")
    assert json.loads(result.stdout) == {"round": 2, "steps": ["propose"]}
    assert not folder.home.queue.exists()


def test_a_terminal_gets_a_bar_and_a_log_a_line_for_every_tenth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for is_terminal, lines in ((False, 11), (True, 1)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda answer=is_terminal: answer)
        bar = Bar("push")
        for step in range(101):
            bar(f"step {step}", step / 100)
        bar.close()
        assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        pytest.param(["pull", "--round", "2"], 6, "pushed.json is not there", id="not pushed"),
        pytest.param(["push", "--round", "1"], 6, "make train ROUND=1", id="round 1"),
        pytest.param(["open", "--round", "3"], 6, "cvatsync push --round 3", id="no such round"),
    ],
)
def test_what_is_not_there_yet_is_told_in_one_line(
    folder: RoundFolder, arguments: list[str], code: int, says: str
) -> None:
    result = cvatsync(folder, *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert says in result.stderr


@pytest.mark.parametrize("verb", ["push", "pull", "status", "open", "effort", "comment", "review"])
def test_a_misspelt_workspace_is_told_and_not_made(
    folder: RoundFolder, tmp_path: Path, verb: str
) -> None:
    result = cvatsync(folder, verb, "--home", str(tmp_path / "other"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"the workspace {tmp_path / 'other'} is not there; correct --home" in result.stderr
    assert not (tmp_path / "other").exists()


def test_a_wrong_token_stops_a_push_before_anything_is_asked_for(
    folder: RoundFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", "wrong")
    folder.file("proposals.coco.json").unlink()
    result = cvatsync(folder, "push")
    assert (result.exit_code, result.stderr.count("\n")) == (9, 1)
    assert "refused the credentials" in result.stderr
    assert not (folder.home.queue).exists()


def test_the_doctor_names_what_is_not_well(
    folder: RoundFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = cvatsync(folder, "doctor")
    assert result.exit_code == 0
    assert "ok   server: angioloop stand-in for CVAT 2.73.0" in result.stdout
    assert "warn functions: none; annotators have no interactor" in result.stdout
    monkeypatch.delenv("ANGIOLOOP_CVAT_URL")
    broken = cvatsync(folder, "doctor", "--json")
    assert broken.exit_code == 1
    findings = json.loads(broken.stdout)["findings"]
    assert [one["what"] for one in findings if one["level"] == "fail"] == ["settings"]


def test_neither_torch_nor_the_sdk_is_loaded_to_show_help() -> None:
    code = (
        "import sys\nfrom cvat_sync.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'cvat_sdk', 'celery'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ, capture_output=True)


def test_a_push_killed_outright_again_and_again_ends_as_one_push(tmp_path: Path) -> None:
    folder = make_round(tmp_path, 40)
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "cvat.yaml").write_text("frames_per_task: 2\nparallel: 2\n")
    command = [sys.executable, "-m", "cvat_sync.cli", "push", "--round", "2"]
    command += ["--home", str(tmp_path), "--conf", str(conf)]
    with standin(tmp_path / "server", "--latency-ms", "80") as access:
        env = {
            **os.environ,
            "ANGIOLOOP_CVAT_URL": access.url,
            "ANGIOLOOP_CVAT_TOKEN": str(access.token),
        }
        kills = 0
        for lines_seen in (1, 2, 2):
            process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            seen = 0
            for line in process.stderr:
                seen += line.startswith("push ")
                if seen == lines_seen:
                    process.kill()
                    kills += 1
                    break
            process.stderr.close()
            process.wait()
        assert kills == 3
        assert not folder.has("pushed.json")
        subprocess.run(command, env=env, check=True, capture_output=True)
        pushed = need_pushed(folder)
        with CvatGateway(access) as gateway:
            tasks = gateway.tasks(pushed.project_id)
            assert len(tasks) == len(pushed.tasks) == 20
            assert sorted(task.n_frames for task in tasks) == [2] * 20
            masks_by_task = {
                task.task_id: len(gateway.task_annotations(task.task_id).shapes)
                for task in pushed.tasks
            }
            assert masks_by_task == {task.task_id: task.masks for task in pushed.tasks}
            assert len(gateway.projects()) == 1
