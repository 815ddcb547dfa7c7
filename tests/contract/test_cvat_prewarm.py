"""`cvatsync prewarm` as a command: the real interactor behind it, a CVAT in front of both."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from casebook.documents import write_document
from cvat_sync.cli import main
from cvat_sync.gateway import CvatGateway
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import call
from tests.contract.cvat_servers import START_S, standin
from tests.fakes.cvat_round import LABELS, make_round

ROOT = Path(__file__).resolve().parents[2]
BOX = {"pos_points": [], "neg_points": [], "obj_bbox": [[5, 8], [36, 16]]}


@dataclass(frozen=True)
class Interactor:
    """The deployed function as its processor runs it."""

    url: str
    log: Path

    def cached(self) -> list[int]:
        """Of each request answered so far, whether the image was known already."""
        return [int(told) for told in re.findall(r"'cached': (\d)", self.log.read_text())]


@contextmanager
def interactor(folder: Path) -> Iterator[Interactor]:
    """The interactor over the shipped tiny base, in a process of its own."""
    conf = folder / "serving"
    conf.mkdir(parents=True)
    write_document(conf / "labels.yaml", LABELS)
    (conf / "serving.yaml").write_text(f"labels: labels.yaml\nbase: {ROOT / 'conf/tiny-base'}\n")
    port, log = folder / "port", folder / "log"
    command = [sys.executable, "-m", "demo.processor", "--port-file", str(port)]
    command += ["--function", str(ROOT / "serverless" / "interactor")]
    env = {**os.environ, "ANGIOLOOP_CONF": str(conf), "OMP_NUM_THREADS": "1"}
    env |= {"ANGIOLOOP_HOME": str(folder / "workspace"), "PYTHONPATH": str(ROOT)}
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=env, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 2 * START_S
        while not port.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the function did not start"
            time.sleep(0.05)
        yield Interactor(f"http://127.0.0.1:{port.read_text().strip()}", log)
    finally:
        process.terminate()
        process.wait(timeout=60)


def cvatsync(home: Path, *arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(main, [*arguments, "--home", str(home)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def test_the_click_on_a_frame_that_was_shown_finds_it_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_round(tmp_path)
    options = ("--round", "2", "--conf", str(tmp_path))
    with (
        interactor(tmp_path / "function") as function,
        standin(tmp_path / "cvat", "--function", f"our-interactor={function.url}") as access,
    ):
        monkeypatch.setenv("ANGIOLOOP_CVAT_URL", access.url)
        monkeypatch.setenv("ANGIOLOOP_CVAT_TOKEN", str(access.token))
        cvatsync(tmp_path, "push", *options)
        prewarm = ("prewarm", *options, "--function", function.url, "--ahead", "2")
        assert "no job of the round is in progress" in cvatsync(tmp_path, *prewarm)[1]
        task = need_pushed(folder).tasks[0]
        begin(access, task.task_id)
        planned, _ = cvatsync(tmp_path, *prewarm, "--dry-run")
        assert planned.strip().endswith(f": {task.frames[0]}, {task.frames[1]}")
        assert function.cached() == []
        said, shown = cvatsync(tmp_path, *prewarm, "--json")
        assert json.loads(said) == {"shown": 2}
        assert shown.splitlines() == [f"shown {name}" for name in task.frames[:2]]
        for frame in range(3):
            path = "/api/lambda/functions/our-interactor"
            call(access, "POST", path, {"task": task.task_id, "frame": frame, **BOX})
        assert function.cached() == [0, 0, 1, 1, 0]


def begin(access: Access, task_id: int) -> None:
    """Let a person open the task's first job."""
    with CvatGateway(access) as gateway:
        job = gateway.jobs(task_id)[0]
    call(access, "PATCH", f"/api/jobs/{job.id}", {"state": "in progress"})
