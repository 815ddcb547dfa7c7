"""The whole walk of the demo, on few phantoms and few steps: every command, process and file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PATIENTS = 3
LIMIT_S = 1200


def short_configuration(folder: Path) -> Path:
    """The demo's configuration with a handful of steps; everything else as shipped."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    demo = folder / "conf" / "demo"
    for path in [*demo.glob("round-*.yaml"), demo / "student.yaml"]:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["train"].pop("epochs", None)
        settings["train"]["steps"] = 4
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return demo


def walk(home: Path, conf: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "demo.walk", "--home", str(home), "--conf", str(conf)]
    return subprocess.run(
        [*command, "--patients", str(PATIENTS)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    folder = tmp_path_factory.mktemp("walk")
    conf, home = short_configuration(folder), folder / "home"
    told = walk(home, conf)
    assert told.returncode == 0, told.stdout[-3000:] + told.stderr[-3000:]
    return home, conf, told.stdout


def test_the_walk_ends_with_the_figures_it_promises(walked: tuple[Path, Path, str]) -> None:
    home, _, shown = walked
    summary = json.loads((home / "summary.json").read_text(encoding="utf-8"))
    assert [row["round"] for row in summary["rounds"]] == [1, 2, 3]
    assert [row["cases"] for row in summary["rounds"]] == [1, 2, 1]
    assert all(0 < row["iou_box"] < 1 for row in summary["rounds"])
    assert summary["control"]["gain_ci95"][0] <= summary["control"]["gain"]
    assert 0 < summary["frangi_dice"] < 1
    assert summary["peak_rss_mb"] < 4000
    for row in summary["rounds"][1:]:
        judged = row["accepted"] + row["refined"] + row["rejected"]
        assert judged == row["cases"]
        assert row["expert_seconds_simulated"] > 0
    assert "simulated" in shown
    assert (home / "rounds" / "report.html").stat().st_size > 50_000


def test_the_student_is_parity_checked_and_measures_unseen_files(
    walked: tuple[Path, Path, str],
) -> None:
    home, _, _ = walked
    summary = json.loads((home / "summary.json").read_text(encoding="utf-8"))
    if summary["student"] is not None:
        assert summary["student"]["parity_max_abs"] <= 1e-3
        assert summary["student"]["mask_iou_vs_torch"] >= 0.999
        tables = sorted((home / "infer").glob("*/qca.csv"))
        assert len(tables) == 3
        assert sorted((home / "infer").glob("*/*.overlay.png"))


def test_no_patient_leaves_the_private_folder(walked: tuple[Path, Path, str]) -> None:
    home = walked[0]
    links = (home / "private" / "relink.csv").read_text(encoding="utf-8").splitlines()[1:]
    patients = {line.split(",")[1] for line in links}
    assert len(patients) == PATIENTS
    assert (home / "private" / "relink.csv").stat().st_mode & 0o077 == 0
    searched = 0
    for path in home.rglob("*"):
        inside = {"private", "phantoms"} & set(path.relative_to(home).parts)
        if not path.is_file() or inside or path.suffix in {".png", ".sqlite", ".safetensors"}:
            continue
        searched += 1
        content = path.read_bytes()
        assert not [name for name in patients if name.encode() in content], path
    assert searched > 20


def test_a_second_run_repeats_nothing(walked: tuple[Path, Path, str]) -> None:
    home, conf, _ = walked
    files = [home / "rounds" / "03" / "candidate.json", home / "rounds" / "02" / "pushed.json"]
    before = [path.stat().st_mtime_ns for path in files]
    told = walk(home, conf)
    assert told.returncode == 0, told.stderr[-3000:]
    assert [path.stat().st_mtime_ns for path in files] == before
