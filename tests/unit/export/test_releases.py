import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from casebook.errors import ConfigError, ModelError, StateError
from casebook.home import Home
from casebook.registry import Registry
from export.cli import main
from tests.unit.export.conftest import Workshop


@pytest.fixture
def home(workshop: Workshop, tmp_path: Path) -> Home:
    """A workspace with the bundle under three names, none in use."""
    place = Home(tmp_path)
    for name in ("a", "b", "c"):
        folder = place.models / "released" / name
        shutil.copytree(workshop.folder, folder)
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "version": name}))
    return place


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def take(home: Home, version: str, *more: str | Path) -> tuple[int, str]:
    return invoke("release", version, "--reason", "a test", "--home", home.root, *more)


def test_a_rollback_goes_back_one_student_at_a_time(home: Home) -> None:
    for version in ("a", "b", "c"):
        assert take(home, version)[0] == 0
    back = ("rollback", "--reason", "worse", "--home", home.root)
    assert invoke(*back)[0] == 0
    assert Registry(home).released() == "b"
    assert invoke(*back)[0] == 0
    assert Registry(home).released() == "a"
    code, said = invoke(*back)
    assert code == StateError.exit_code
    assert "no student was in use before a" in said
    assert "rollback: worse" in (home.root / "audit.jsonl").read_text()


def test_a_damaged_or_failed_bundle_is_not_taken_and_the_old_one_stays(home: Home) -> None:
    take(home, "a")
    (home.models / "released" / "b" / "encoder.onnx").write_bytes(b"")
    code, said = take(home, "b")
    assert (code, "damaged" in said) == (ModelError.exit_code, True)
    path = home.models / "released" / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["gates"]["mask_iou"] = 0.5
    path.write_text(json.dumps(manifest))
    code, said = take(home, "c")
    assert (code, "outside its gates" in said) == (ModelError.exit_code, True)
    assert take(home, "../a")[0] == ModelError.exit_code
    assert Registry(home).released() == "a"
    lines = invoke("releases", "--home", home.root)[1].splitlines()
    assert len(lines) == 3
    assert next(line for line in lines if line.startswith("*")).split()[1] == "a"
    assert any("damaged" in line for line in lines)


def test_only_a_bundle_of_the_key_is_taken(home: Home, tmp_path: Path) -> None:
    key, bundle = tmp_path / "site.key", home.models / "released" / "a"
    code, said = invoke("sign", bundle, "--key", key)
    assert (code, "--new-key" in said) == (ConfigError.exit_code, True)
    assert invoke("sign", bundle, "--key", key, "--new-key")[0] == 0
    assert take(home, "a", "--key", key)[0] == 0
    code, said = take(home, "b", "--key", key)
    assert (code, "ask for a signed bundle" in said) == (ModelError.exit_code, True)
    assert Registry(home).released() == "a"
