"""CVAT's own command line runs our detector on a task: the real cvat-cli, the shipped tiny base."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from cvat_sdk import make_client
from cvat_sdk.core.client import AccessTokenCredentials
from pydantic import TypeAdapter

from casebook import masks
from casebook.cases import PixelSpacing
from casebook.catalogue import png_bytes, read_png
from casebook.handler import Handler
from casebook.labels import Label, LabelSet
from casebook.wire import Detection
from cvat_sync.labels import label_specs
from cvat_sync.settings import Access
from segmenter.teacher import load_teacher
from serverless.models import ServingConfig
from tests.contract.cvat_rounds import call
from tests.contract.cvat_servers import standin
from tests.unit.trainer.workspace import picture

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = ROOT / "serverless" / "auto_annotation.py"
LIMIT_S = 600
LABELS = LabelSet(
    name="two",
    labels=(
        Label(name="coronary artery", role="tree"),
        Label(name="stenosis", role="lesion"),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)
CONF = """\
labels: labels.yaml
base: {base}
answers: {{threshold: 0.5, keep_largest: true}}
"""


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    with standin(tmp_path_factory.mktemp("standin")) as found:
        yield found


@pytest.fixture
def frames(tmp_path: Path) -> list[Path]:
    spacing = PixelSpacing(row_mm=0.3, col_mm=0.3, source="calibrated")
    paths = [tmp_path / f"case-{i:03d}.f00000.png" for i in range(2)]
    for i, path in enumerate(paths):
        path.write_bytes(png_bytes(picture(i)[0], spacing))
    return paths


@pytest.fixture
def task_id(access: Access, frames: list[Path]) -> int:
    """A task with those frames in a project with our labels, made with the SDK."""
    project = {"name": "auto", "labels": label_specs(LABELS)}
    made = call(access, "POST", "/api/projects", project)
    spec = {"name": "auto", "project_id": made["id"]}
    number = int(call(access, "POST", "/api/tasks", spec)["id"])
    with make_client(access.url, credentials=AccessTokenCredentials(str(access.token))) as client:
        client.tasks.retrieve(number).upload_data(
            frames, params={"image_quality": 100}, status_check_period=0.1
        )
    return number


def auto_annotate(
    access: Access, task_id: int, conf: Path, *options: str
) -> "subprocess.CompletedProcess[str]":
    where = urlsplit(access.url)
    server = ["--server-host", f"http://{where.hostname}", "--server-port", str(where.port)]
    command = [*server, "task", "auto-annotate", str(task_id), "--function-file", str(FUNCTION)]
    return subprocess.run(
        [str(Path(sys.executable).with_name("cvat-cli")), *command, *options],
        env={
            **os.environ,
            "CVAT_ACCESS_TOKEN": str(access.token),
            "ANGIOLOOP_CONF": str(conf),
            "ANGIOLOOP_HOME": str(conf.parent / "home"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        },
        cwd=conf.parent,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "labels.yaml").write_text(LABELS.model_dump_json())
    (folder / "serving.yaml").write_text(CONF.format(base=ROOT / "conf" / "tiny-base"))
    return folder


def expected(frame: Path, home: Path) -> list[Detection]:
    """What the function's handler answers on a frame, asked here and now."""
    teacher = load_teacher(home, None, base=ROOT / "conf" / "tiny-base")
    config = ServingConfig.model_validate({"answers": {"threshold": 0.5, "keep_largest": True}})
    handler = Handler(teacher, LABELS, config=config.answers)
    reply = handler.reply("detector", {"image": b64encode(frame.read_bytes()).decode()})
    assert reply.status == 200, reply.body
    return TypeAdapter(list[Detection]).validate_json(reply.body)


def test_cvat_cli_draws_what_the_detector_answers_with_its_scores(
    access: Access, task_id: int, frames: list[Path], conf: Path, tmp_path: Path
) -> None:
    result = auto_annotate(access, task_id, conf, "--clear-existing", "--allow-unmatched-labels")
    assert result.returncode == 0, result.stderr
    names = {
        label["id"]: label["name"]
        for label in call(access, "GET", f"/api/labels?task_id={task_id}")["results"]
    }
    drawn = call(access, "GET", f"/api/tasks/{task_id}/annotations/")["shapes"]
    for number, frame in enumerate(frames):
        wanted = {entry.label: entry for entry in expected(frame, tmp_path / "models")}
        found = {names[one["label_id"]]: one for one in drawn if one["frame"] == number}
        assert wanted, "the base answered nothing: the test shows nothing"
        assert set(found) == set(wanted)
        hw = read_png(frame.read_bytes()).hw
        for label, shape in found.items():
            assert (shape["type"], shape["source"]) == ("mask", "auto")
            assert shape["score"] == pytest.approx(float(wanted[label].confidence), abs=1e-6)
            assert np.array_equal(
                masks.from_cvat(shape["points"], hw),
                masks.from_detector(wanted[label].mask, hw),
            )


def test_a_wrong_configuration_stops_it_with_a_message(
    access: Access, task_id: int, conf: Path
) -> None:
    (conf / "serving.yaml").write_text("labels: labels.yaml\ntypo: 1\n")
    result = auto_annotate(access, task_id, conf)
    assert result.returncode != 0
    assert "typo" in result.stderr
    assert call(access, "GET", f"/api/tasks/{task_id}/annotations/")["shapes"] == []
