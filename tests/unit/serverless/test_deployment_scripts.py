"""The scripts behind `make up`, `make deploy` and `make pin-images`, over tools that remember."""

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A path with docker and nuctl that keep what they were given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    docker = f"""#!/bin/bash
echo "$*" >> {tmp_path}/docker.log
if [ "$1 $2" = "buildx imagetools" ]; then
  case "$4" in unknown*|"${{MISSING:-none}}") exit 1;; esac
  echo "sha256:$(echo -n "$4" | sha256sum | cut -d' ' -f1)"
fi
"""
    nuctl = f"""#!/bin/bash
echo "$*" >> {tmp_path}/nuctl.log
if [ "$1" = deploy ]; then cp -r "$5" {tmp_path}/; fi
"""
    for name, text in (("docker", docker), ("nuctl", nuctl)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def run_script(name: str, tools: Path, *arguments: str, **settings: str) -> Any:
    return subprocess.run(
        ["bash", str(ROOT / "docker" / name), *arguments],
        env={"PATH": f"{tools}:{os.environ['PATH']}", "HOME": os.environ["HOME"], **settings},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("settings", "model", "shared_url", "workers"),
    [
        pytest.param({}, "teacher", "", 1, id="gpu"),
        pytest.param({"CPU": "1"}, "student", "", 1, id="cpu"),
        pytest.param(
            {"SHARED": "http://angioloop_model:8090", "WORKERS": "4"},
            "student",
            "http://angioloop_model:8090",
            4,
            id="shared",
        ),
        pytest.param({"MODEL": "nnunet"}, "nnunet", "", 1, id="nnU-Net"),
        pytest.param({"MODEL": "sam2", "CPU": "1"}, "sam2", "", 1, id="SAM 2 without a GPU"),
    ],
)
def test_deploying_hands_nuctl_three_complete_functions(
    settings: dict[str, str],
    model: str,
    shared_url: str,
    workers: int,
    tools: Path,
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    for name in ("nnunet", "sam2"):
        (data / "models" / name).mkdir(parents=True)
    tracks = "redis://angioloop_redis:6379/1"
    result = run_script("deploy.sh", tools, ANGIOLOOP_DATA=str(data), TRACKS=tracks, **settings)
    assert result.returncode == 0, result.stderr
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    built = re.findall(r"EXTRAS=(\S+)", (tmp_path / "docker.log").read_text())
    extras = built[0].split(",")
    assert set(extras) <= set(project["optional-dependencies"])
    is_member = model in project["entry-points"]["angioloop.segmenters"]
    assert is_member is (model in extras) is ("MODEL" in settings)
    assert ("train" in extras) is (model != "student")
    for kind in ("interactor", "detector", "tracker"):
        assert (tmp_path / kind / "main.py").is_file()
        (path,) = (tmp_path / kind).glob("function*.yaml")
        spec = yaml.safe_load(path.read_text())["spec"]
        environment = {entry["name"]: entry["value"] for entry in spec["env"]}
        assert environment["ANGIOLOOP_MODEL"] == model
        assert environment["ANGIOLOOP_SHARED"] == shared_url
        assert environment["ANGIOLOOP_TRACKS"] == tracks
        assert spec["triggers"]["myHttpTrigger"]["numWorkers"] == workers
        assert spec["volumes"][0]["volume"]["hostPath"]["path"] == f"{data}/models"
        assert ("resources" in spec) is not ("CPU" in settings or "SHARED" in settings)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"SHARED": "angioloop_model"}, "expected http://HOST:PORT"),
        ({"SHARED": 'http://x:1"|rm'}, "expected http://HOST:PORT"),
        ({"TRACKS": "redis://:pass@host:1/0"}, "without a password"),
        ({"WORKERS": "2"}, "expected 1, or up to 99 with SHARED"),
        ({"SHARED": "http://x:1", "WORKERS": "many"}, "expected 1, or up to 99"),
        ({"ANGIOLOOP_DATA": "/nowhere"}, "/nowhere/models is not there"),
        ({"MODEL": "medsam"}, "expected sam2, nnunet, or nothing"),
        ({"MODEL": 'sam2|e"'}, "expected sam2, nnunet, or nothing"),
        ({"MODEL": "sam2", "SHARED": "http://x:1"}, "MODEL and SHARED are both given"),
        ({"MODEL": "sam2"}, "models/sam2 is not there; docs/deploy.md"),
    ],
)
def test_a_wrong_setting_of_a_deployment_stops_it(
    settings: dict[str, str], reason: str, tools: Path, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    given = {"ANGIOLOOP_DATA": str(tmp_path), **settings}
    result = run_script("deploy.sh", tools, **given)
    assert result.returncode == 2
    assert reason in result.stderr
    assert not (tmp_path / "nuctl.log").exists()


def pinnable(folder: Path) -> dict[Path, str]:
    (folder / "docker").mkdir()
    names = ["docker-compose.override.yml", *("docker/" + p.name for p in DOCKERFILES)]
    for name in names:
        shutil.copy(ROOT / name, folder / name)
    return {folder / name: (folder / name).read_text() for name in names}


def test_pinning_writes_each_digest_once_and_changes_nothing_else(
    tools: Path, tmp_path: Path
) -> None:
    before = pinnable(tmp_path)
    assert len(before) == 3
    for _ in range(2):
        result = run_script("pin-images.sh", tools, str(tmp_path))
        assert result.returncode == 0, result.stderr
    pinned: list[str] = []
    for path, text in before.items():
        changed = path.read_text()
        pinned += re.findall(r"(\S+@sha256:[0-9a-f]{64})", changed)
        plain = re.sub(r"@sha256:[0-9a-f]{64}", "", changed)
        assert plain == re.sub(r"@sha256:[0-9a-f]{64}", "", text)
    assert {image.split("@")[0].split(":")[0] for image in pinned} == {
        "redis",
        "mher/flower",
        "python",
    }
    for image in pinned:
        tag, _, digest = image.partition("@sha256:")
        assert digest == hashlib.sha256(tag.encode()).hexdigest()


def test_pinning_writes_nothing_when_one_registry_does_not_answer(
    tools: Path, tmp_path: Path
) -> None:
    before = pinnable(tmp_path)
    override = yaml.safe_load((tmp_path / "docker-compose.override.yml").read_text())
    flower = override["services"]["angioloop_flower"]["image"].split("@")[0]
    result = run_script("pin-images.sh", tools, str(tmp_path), MISSING=flower)
    assert result.returncode == 1
    assert f"no digest for {flower}" in result.stderr
    assert {path: path.read_text() for path in before} == before


@pytest.mark.parametrize("name", ["compose.sh", "deploy.sh", "pin-images.sh"])
def test_without_the_tools_one_line_says_what_to_install(name: str, tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "env"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    result = subprocess.run(
        ["bash", str(ROOT / "docker" / name), "up"],
        env={"PATH": str(tmp_path), "HOME": os.environ["HOME"]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "docker is not installed" in result.stderr
    assert "docs/deploy.md" in result.stderr
    assert len(result.stderr.splitlines()) == 1
