"""The deployed function over a released student: no torch is asked for."""

import json
from pathlib import Path

import pytest
import yaml

from casebook.catalogue import Catalogue
from demo.processor import Worker
from tests.contract.test_handler_functions import ROOT, ask
from tests.unit.export.conftest import Workshop


def test_a_released_student_answers_and_names_itself(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump({"name": "x", "labels": [{"name": "a"}]}))
    (tmp_path / "serving.yaml").write_text("labels: labels.yaml\n")
    monkeypatch.setenv("ANGIOLOOP_CONF", str(tmp_path))
    monkeypatch.setenv("ANGIOLOOP_HOME", str(workshop.home.root))
    monkeypatch.setenv("ANGIOLOOP_MODEL", "student")
    assert Catalogue(workshop.home).count() > 0
    answer = ask(Worker(ROOT / "serverless" / "interactor"), obj_bbox=[[8, 36], [82, 56]])
    assert answer.status == 200, answer.body
    assert workshop.bundle.version in dict(answer.headers)["X-Model-Id"]
    assert "shapes" in json.loads(answer.body)
