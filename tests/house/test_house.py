"""The rules of the house, checked on the tracked files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.house.guard import problem_of

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {
    *("casebook", "angio", "segmenter", "export", "trainer", "cvat_sync", "serverless"),
    *("demo", "bench", "docs", "tests", "conf"),
}


def tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    names = [name for name in listing.stdout.split("\0") if name]
    assert len(names) > 50
    return [Path(name) for name in names if (ROOT / name).is_file()]


def test_no_tracked_file_is_large_or_a_patient_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert [found for path in tracked() if (found := problem_of(path))] == []


def test_every_module_stands_in_a_room() -> None:
    modules = [path for path in tracked() if path.suffix == ".py"]
    assert [path.as_posix() for path in modules if path.parts[0] not in ROOMS] == []


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        path.as_posix(): count
        for path in tracked()
        if path.suffix == ".py"
        and (count := len((ROOT / path).read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_nothing_is_left_open_in_the_code() -> None:
    marks = re.compile(r"NotImplementedError|\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
    found = [
        path.as_posix()
        for path in tracked()
        if path.suffix == ".py" and marks.search((ROOT / path).read_text(encoding="utf-8"))
        if path != Path("tests/house/test_house.py")
    ]
    assert found == []


def test_nothing_is_pickled() -> None:
    marks = re.compile(
        r"\bimport pickle|\btorch\.save\(|\btorch\.load\((?!.*weights_only=True)"
        r"|allow_pickle\s*=\s*True"
    )
    found = [
        path.as_posix()
        for path in tracked()
        if path.suffix == ".py" and marks.search((ROOT / path).read_text(encoding="utf-8"))
        # The second plays nnU-Net, which writes such files; `segmenter.weights` reads them.
        if path not in {Path("tests/house/test_house.py"), Path("tests/fakes/small_nnunet.py")}
    ]
    assert found == []
    loading = [
        path.as_posix()
        for path in tracked()
        if path.suffix == ".py" and "torch.load(" in (ROOT / path).read_text(encoding="utf-8")
        if path.parts[0] != "tests"
    ]
    assert loading == ["segmenter/weights.py"], "released weights are converted once (ADR 9)"


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert named, "the README names no make target"
    assert named <= targets


@pytest.mark.parametrize(
    ("given", "named", "expected"),
    [({}, (), "workspace"), ({"ANGIOLOOP_HOME": "/lab"}, (), "/lab"),
     ({"ANGIOLOOP_HOME": "/lab"}, ("HOME_DIR=other",), "other")],
)  # fmt: skip
def test_make_works_in_the_workspace_the_commands_use(
    given: dict[str, str], named: tuple[str, ...], expected: str
) -> None:
    make = shutil.which("make")
    assert make is not None
    told = subprocess.run(
        [make, "--dry-run", "train", "ROUND=2", *named],
        cwd=ROOT, env={"PATH": os.environ["PATH"], **given},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"ANGIOLOOP_HOME={expected} " in told.stdout.splitlines()[-1]


def test_every_yaml_file_parses() -> None:
    files = [path for path in tracked() if path.suffix in {".yaml", ".yml"}]
    assert len(files) >= 5
    for path in files:
        with (ROOT / path).open(encoding="utf-8") as stream:
            list(yaml.safe_load_all(stream))


def test_every_exact_pin_meets_its_floor() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", constraints, re.MULTILINE)
    assert len(pins) > 60
    names = [name.lower().replace("_", "-") for name, _ in pins]
    assert len(names) == len(set(names))
    assert dict(zip(names, (v for _, v in pins), strict=True))["torch"] == "2.13.0"
