"""The deployment machine's environment, really made: `.[infer]` alone, in a virtual environment."""

import csv
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import write_run

ROOT = Path(__file__).parents[3]
CONSTRAINTS = ROOT / "constraints.txt"
AIM_MB = 400
NOT_OURS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
"""What a bare virtual environment has; the rest of it was brought by the extra."""


@dataclass(frozen=True)
class Site:
    """A virtual environment with the extra `infer` and nothing else."""

    python: Path
    packages: Path

    @property
    def size_mb(self) -> float:
        files = (path for path in self.packages.rglob("*") if path.is_file())
        ours = (p for p in files if not p.relative_to(self.packages).parts[0].startswith(NOT_OURS))
        return sum(path.stat().st_size for path in ours) / 2**20

    def call(self, *arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
        bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            [str(self.python), *(str(one) for one in arguments)],
            cwd=cwd, env=bare, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    place = tmp_path_factory.mktemp("site")
    venv.create(place / "venv", with_pip=True)
    python = place / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    probe = next(one for one in CONSTRAINTS.read_text().splitlines() if one.startswith("click=="))
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    reached = subprocess.run(
        [*pip, "download", "--no-deps", "--dest", str(place / "probe"), probe],
        cwd=place, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    if reached.returncode:
        pytest.skip("pip reaches no package index here, so the extra cannot be installed")
    source = place / "source"
    source.mkdir()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rooms = project["tool"]["setuptools"]["packages"]["find"]["include"]
    for name in (
        *(room.rstrip("*") for room in rooms),
        *("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md"),
    ):
        copy: Callable[..., object] = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    done = subprocess.run(
        [*pip, "install", "--no-compile", "-c", str(CONSTRAINTS), f"{source}[infer]"],
        cwd=place, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    where = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Site(python, Path(where.stdout.strip()))


def test_the_extra_brings_no_torch_and_angioinfer_measures_a_run(
    site: Site, workshop: Workshop, tmp_path: Path
) -> None:
    asked = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    answer = site.call("-c", asked, "torch", "sam3", "peft", "onnxruntime", cwd=tmp_path)
    assert answer.stdout.strip() == "['onnxruntime']"
    path, out = write_run(tmp_path / "run.dcm"), tmp_path / "out"
    done = site.call(
        *("-m", "export.cli", "run", path, "--out", out, "--bundle", workshop.folder),
        *("--box", "40,50,115,110"), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 of 1 files" in done.stdout
    rows = list(csv.DictReader((out / "qca.csv").read_text().splitlines()))
    assert [row["prompt"] for row in rows] == ["given"]
    for ending in ("overlay.png", "vessel-1.png", "cine.gif"):
        assert len(list(out.glob(f"*{ending}"))) == 1


def test_a_service_without_its_extra_says_what_to_install(
    site: Site, workshop: Workshop, tmp_path: Path
) -> None:
    done = site.call("-m", "export.cli", "serve", "--bundle", workshop.folder, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install angioloop[infer,http]" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the size stated is that on Linux")
def test_what_is_installed_is_as_large_as_the_manual_says(
    site: Site,
    workshop: Workshop,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    manual = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    stated = re.search(r"(\d+) MB without byte-code, (\d+) MB without", manual)
    assert stated is not None
    plain = site.size_mb
    for folder in [path for path in site.packages.rglob("tests") if path.is_dir()]:
        shutil.rmtree(folder, ignore_errors=True)
    slim = site.size_mb
    record_property("installed_mb", round(plain))
    record_property("installed_without_tests_mb", round(slim))
    assert plain == pytest.approx(float(stated[1]), rel=0.05)
    assert slim == pytest.approx(float(stated[2]), rel=0.05)
    assert slim <= AIM_MB
    path = write_run(tmp_path / "run.dcm")
    done = site.call(
        *("-m", "export.cli", "run", path, "--out", tmp_path / "out"),
        *("--bundle", workshop.folder), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
