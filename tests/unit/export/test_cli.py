import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from casebook.annotations import read_annotations
from casebook.documents import read_document
from casebook.errors import DataError
from export.cli import main
from export.infer import with_ends
from export.outputs import InferReport
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import SIDE_PX, write_run

BOX = "40,50,115,110"


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_a_run_writes_masks_coco_tables_and_overlay(workshop: Workshop, tmp_path: Path) -> None:
    write_run(tmp_path / "run one.dcm")
    out = tmp_path / "out"
    code, said = invoke(
        *("run", tmp_path / "run one.dcm", "--out", out, "--bundle", workshop.folder),
        *("--box", BOX, "--threads", "2"),
    )
    assert code == 0, said
    assert f"on CPUExecutionProvider, 2 threads; results in {out}" in said
    report = read_document(out / "qca.json", InferReport)
    assert report.results[0].frame == 2
    assert report.results[0].frame_chosen
    assert report.results[0].choice is not None
    assert report.results[0].choice.inflow_seen
    assert report.providers == ("CPUExecutionProvider",)
    assert report.threads == 2
    assert report.results[0].vessels[0].prompt == "given"
    overlay = np.asarray(Image.open(out / "run-one.f00002.overlay.png"))
    assert overlay.shape == (SIDE_PX, SIDE_PX, 3)
    mask = np.asarray(Image.open(out / "run-one.f00002.vessel-1.png"))
    assert int((mask > 0).sum()) == report.results[0].vessels[0].area_px
    coco = read_annotations(out / "annotations.coco.json")
    assert [image.case_id for image in coco.images] == ["run-one"]
    rows = list(csv.DictReader((out / "qca.csv").read_text().splitlines()))
    assert rows[0]["vessel"] == "1"
    assert rows[0]["problem"] or rows[0]["spacing_source"] == "isocentre"


def test_bad_files_are_told_and_the_rest_goes_on(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_run(folder / "good.dcm")
    write_run(folder / "black.dcm", black=True)
    (folder / "text.dcm").write_text("no angiogram")
    (folder / "notes.txt").write_text("not meant for us")
    whole = (folder / "good.dcm").read_bytes()
    (folder / "half.dcm").write_bytes(whole[: len(whole) // 2])
    code, said = invoke(
        "run", folder, tmp_path / "gone.dcm", "--out", tmp_path / "out", "--bundle", workshop.folder
    )
    assert code == DataError.exit_code
    report = read_document(tmp_path / "out" / "qca.json", InferReport)
    assert [result.file for result in report.results] == ["good.dcm"]
    assert {problem.file for problem in report.problems} == {
        "black.dcm",
        "text.dcm",
        "half.dcm",
        "gone.dcm",
    }
    assert "one grey value" in said
    assert "1 of 5 files" in said


def test_two_files_of_one_name_do_not_overwrite_each_other(
    workshop: Workshop, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name / "run.dcm", seed=ord(name))
    out = tmp_path / "out"
    code, _ = invoke(
        "run", tmp_path / "a", tmp_path / "b", "--out", out, "--bundle", workshop.folder
    )
    assert code == 0
    assert len(list(out.glob("*.overlay.png"))) == 2


def test_json_tells_everything(workshop: Workshop, tmp_path: Path) -> None:
    write_run(tmp_path / "run.dcm")
    code, said = invoke(
        "run",
        tmp_path / "run.dcm",
        "--out",
        tmp_path / "out",
        "--bundle",
        workshop.folder,
        "--frame",
        "2",
        "--json",
    )
    assert code == 0
    found = json.loads(said[said.index("{") :])
    assert found["results"][0]["frame_chosen"] is False
    assert found["model_id"] == workshop.bundle.version


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--box", "1,2,3"], "expected x1,y1,x2,y2", id="three numbers"),
        pytest.param(["--box", "900,900,950,950"], "outside the image", id="box outside"),
        pytest.param(["--frame", "77"], "frame 77 was asked for; ask for one", id="no such frame"),
    ],
)
def test_a_wrong_option_is_told(
    workshop: Workshop, tmp_path: Path, arguments: list[str], message: str
) -> None:
    path = write_run(tmp_path / "run.dcm")
    code, said = invoke(
        "run", path, "--out", tmp_path / "out", "--bundle", workshop.folder, *arguments
    )
    assert code != 0
    assert message in said


def test_a_folder_that_cannot_be_written_is_told(workshop: Workshop, tmp_path: Path) -> None:
    write_run(tmp_path / "run.dcm")
    (tmp_path / "file").write_text("in the way")
    code, said = invoke(
        "run", tmp_path / "run.dcm", "--out", tmp_path / "file", "--bundle", workshop.folder
    )
    assert code == DataError.exit_code
    assert "cannot be written" in said


def test_without_a_bundle_the_released_one_is_taken(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(tmp_path / "run.dcm")
    monkeypatch.setenv("ANGIOLOOP_HOME", str(workshop.home.root))
    assert invoke("run", path, "--out", tmp_path / "out")[0] == 0
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path / "empty"))
    code, said = invoke("run", path, "--out", tmp_path / "out")
    assert code == 4
    assert "no student is released" in said


def test_verify_finds_a_whole_and_a_damaged_bundle(workshop: Workshop, tmp_path: Path) -> None:
    code, said = invoke("verify", workshop.folder)
    assert (code, "all gates met" in said) == (0, True)
    copy = Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))
    (copy / "automatic.onnx").write_bytes(b"")
    code, said = invoke("verify", copy)
    assert code == 4
    assert "damaged" in said


def test_bench_times_frame_and_prompts(workshop: Workshop) -> None:
    code, said = invoke(
        "bench", "--bundle", workshop.folder, "--repeat", "3", "--threads", "1", "--json"
    )
    assert code == 0
    figures = json.loads(said)
    assert (figures["providers"], figures["threads"]) == (["CPUExecutionProvider"], 1)
    assert min(figures["load_ms"], figures["frame_ms_median"], figures["prompt_ms_median"]) > 0
    code, said = invoke("bench", "--bundle", workshop.folder, "--repeat", "3", "--threads", "2")
    assert code == 0
    assert said.startswith(f"{workshop.bundle.version} on CPUExecutionProvider, 2 threads\n")


def test_healthy_ends_come_from_the_tree_around_the_box_and_nothing_beyond() -> None:
    tree = np.zeros((60, 200), dtype=bool)
    tree[28:33, 10:190] = True
    tree[5:9, 90:110] = True
    segment = np.zeros_like(tree)
    segment[28:33, 80:120] = True
    found = with_ends(segment, tree, (80.0, 26.0, 119.0, 34.0))
    columns = np.flatnonzero(found.any(axis=0))
    assert 60 < columns.min() < 72
    assert 128 < columns.max() < 140
    assert not found[5:9].any()


def test_angioinfer_runs_where_torch_cannot_be_imported(workshop: Workshop, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.dcm")
    program = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'segmenter', 'sam3', 'beartype'):\n"
        "            raise ImportError(f'{name} is not installed here')\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from export.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules and 'segmenter' not in sys.modules\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            "run",
            str(path),
            "--out",
            str(tmp_path / "out"),
            "--bundle",
            str(workshop.folder),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "qca.csv").is_file()
