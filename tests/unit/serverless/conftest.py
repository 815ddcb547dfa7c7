"""A workspace whose functions serve a small base with random weights."""

from pathlib import Path

import pytest

from casebook.home import Home
from tests.unit.trainer.workspace import LABELS, make_base


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    base = make_base(tmp_path / "conf" / "small")
    (tmp_path / "conf" / "labels.yaml").write_text(LABELS.model_dump_json())
    settings = f"labels: labels.yaml\nbase: {base}\n"
    (tmp_path / "conf" / "serving.yaml").write_text(settings)
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path / "workspace"))
    monkeypatch.setenv("ANGIOLOOP_CONF", str(tmp_path / "conf"))
    for name in ("ANGIOLOOP_MODEL", "ANGIOLOOP_TRACKS", "ANGIOLOOP_SHARED"):
        monkeypatch.delenv(name, raising=False)
    return Home(tmp_path / "workspace")
