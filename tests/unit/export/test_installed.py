"""The deployment machine's environment, really made: `.[infer]` alone, in a virtual environment."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
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
    source: Path

    @property
    def size_mb(self) -> float:
        files = (path for path in self.packages.rglob("*") if path.is_file())
        ours = (p for p in files if not p.relative_to(self.packages).parts[0].startswith(NOT_OURS))
        return sum(path.stat().st_size for path in ours) / 2**20

    def call(self, *arguments: str | Path, cwd: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.python), *(str(one) for one in arguments)],
            cwd=cwd, env=bare(), capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def pip(self, *arguments: str | Path) -> None:
        done = self.call("-m", "pip", "--quiet", *arguments, cwd=self.source.parent)
        assert done.returncode == 0, done.stderr[-3000:]


def bare() -> dict[str, str]:
    """The environment of a plain user: our own packages are not on the path, byte-code is kept."""
    ours = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {name: value for name, value in os.environ.items() if name not in ours}


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
    where = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    made = Site(python, Path(where.stdout.strip()), source)
    made.pip("install", "--no-compile", "-c", CONSTRAINTS, f"{source}[infer]")
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="the size stated is that on Linux")
def test_what_is_installed_is_as_large_as_the_manual_says(
    site: Site,
    workshop: Workshop,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    manual = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    stated = re.search(r"\*\*(\d+) MB\*\*, and (\d+) MB after the first runs", manual)
    assert stated is not None
    assert not list(site.packages.glob("numpy/__pycache__/*"))  # nothing has run before
    plain = site.size_mb
    path = write_run(tmp_path / "run.dcm")
    for options in (("--box", "40,50,115,110"), ()):
        done = site.call(
            *("-m", "export.cli", "run", path, "--out", tmp_path / "out"),
            *("--bundle", workshop.folder, *options), cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    used = site.size_mb
    record_property("installed_mb", round(plain))
    record_property("installed_and_used_mb", round(used))
    assert plain == pytest.approx(float(stated[1]), rel=0.02)
    assert used == pytest.approx(float(stated[2]), rel=0.02)
    assert used <= AIM_MB


def test_the_extra_brings_no_torch_and_angioinfer_measures_a_run(
    site: Site, workshop: Workshop, tmp_path: Path
) -> None:
    asked = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    left_out = ("torch", "sam3", "peft", "skimage", "nibabel", "fastapi")
    answer = site.call("-c", asked, *left_out, "onnxruntime", cwd=tmp_path)
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


def test_the_commands_of_the_lab_say_what_to_install(site: Site, tmp_path: Path) -> None:
    done = site.call("-c", "from angio.entry import main; main()", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: casebook needs ")
    assert "pip install 'angioloop[lab]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_its_extra_the_service_measures_and_still_there_is_no_torch(
    site: Site, workshop: Workshop, tmp_path: Path
) -> None:
    site.pip("install", "--no-compile", "-c", CONSTRAINTS, f"{site.source}[infer,http]")
    run = write_run(tmp_path / "run.dcm")
    given = ("serve", "--port", "0", "--bundle", workshop.folder)
    with subprocess.Popen(
        [str(site.python), "-u", "-m", "export.cli", *map(str, given)],
        cwd=tmp_path, env=bare(), stdout=subprocess.PIPE, text=True,
    ) as service:  # fmt: skip
        try:
            assert service.stdout is not None
            address = re.search(r"http://[\d.:]+/", service.stdout.readline())
            assert address is not None
            asked = urllib.request.Request(  # noqa: S310 - our own service on this machine
                f"{address[0]}analyse?box=40,50,115,110",
                data=run.read_bytes(),
                headers={"Content-Type": "application/dicom"},
            )
            with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310 - likewise
                assert json.load(answer)["result"]["vessels"][0]["prompt"] == "given"
        finally:
            service.terminate()
    assert site.call("-c", "import torch", cwd=tmp_path).returncode == 1
