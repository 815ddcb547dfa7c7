"""Float16 and int8: made, measured, shipped only within the gate, and said when asked for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from casebook.documents import read_document, write_document
from casebook.errors import ConfigError, DataError
from casebook.protocols import Frame, Prompt
from export import quantisation
from export.__main__ import main as training_side
from export.bundle import read_bundle
from export.cli import main
from export.precision import FILE, GRAPHS, Precisions, file_of, precision_for, shipped
from export.quantisation import add_precisions
from export.signature import SIGNATURE
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import draw_tube, write_run

ALL = [file_of(graph, one) for graph in GRAPHS for one in ("fp32", "fp16", "int8")]


def frames(seeds: range) -> list[tuple[Frame, Prompt]]:
    box = (40.0, 50.0, 115.0, 110.0)
    return [(Frame(draw_tube(seed).pixels), Prompt(box_xyxy=box)) for seed in seeds]


@pytest.fixture
def copy(workshop: Workshop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(workshop.folder, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("files", "provider", "taken"),
    [
        pytest.param(list(GRAPHS), "cpu", "fp32", id="nothing shipped"),
        pytest.param(ALL, "cpu", "int8", id="int8 on the processor"),
        pytest.param(ALL, "cuda", "fp16", id="float16 on a GPU"),
        pytest.param(ALL, "coreml", "fp32", id="neither elsewhere"),
        pytest.param(ALL[:-1], "cpu", "fp32", id="one graph missing"),
    ],
)
def test_what_is_taken_unasked(files: list[str], provider: str, taken: str) -> None:
    assert precision_for(files, provider) == taken


def test_what_is_asked_for_and_not_there_is_refused() -> None:
    assert precision_for(ALL, "cpu", "fp16") == "fp16"
    with pytest.raises(ConfigError, match="no int8 graphs; it has: fp32;"):
        precision_for(GRAPHS, "cpu", "int8")


def test_refused_graphs_are_not_in_the_bundle_but_their_figures_are(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "FASTER", 1e9)
    (copy / SIGNATURE).write_text("of the old manifest")
    found = add_precisions(copy, frames(range(4)), frames(range(10, 12)))
    by_name = {trial.precision: trial for trial in found.trials}
    int8, fp16 = by_name["int8"], by_name["fp16"]
    assert not int8.shipped
    assert int8.speed_ratio is not None
    assert f"1/{int8.speed_ratio:.2f} of float32's time" in int8.reason
    assert int8.size_mb < int8.size_fp32_mb
    assert fp16.prompts == int8.prompts == 4
    assert fp16.max_abs < 0.1
    assert fp16.shipped == (fp16.mask_iou >= fp16.mask_iou_required)
    bundle = read_bundle(copy)
    assert read_document(copy / FILE, Precisions) == found
    assert FILE in bundle.files
    assert "int8" not in shipped(bundle.files)
    assert not list(copy.glob("*.int8.onnx"))
    assert not (copy / SIGNATURE).exists()


def test_shipped_graphs_run_by_the_command_and_go_when_they_are_refused_later(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(copy)
    lax = bundle.gates.with_(mask_iou_required=0.0)
    write_document(copy / "manifest.json", bundle.with_(gates=lax))
    monkeypatch.setattr(quantisation, "FASTER", 0.0)
    add_precisions(copy, frames(range(4)), frames(range(10, 12)))
    assert shipped(read_bundle(copy).files) == ("fp32", "fp16", "int8")
    assert CliRunner().invoke(main, ["verify", str(copy)]).exit_code == 0
    path = write_run(tmp_path / "run.dcm")
    given = ["run", str(path), "--bundle", str(copy), "--no-gif", "--no-seg"]
    for precision in ("fp16", "int8"):
        out = str(tmp_path / precision)
        done = CliRunner().invoke(main, [*given, "--out", out, "--precision", precision])
        assert done.exit_code == 0, done.output
    monkeypatch.setattr(quantisation, "FASTER", 1e9)
    add_precisions(copy, frames(range(4)), frames(range(10, 12)))
    assert shipped(read_bundle(copy).files) == ("fp32", "fp16")
    assert not list(copy.glob("*.int8.onnx"))
    done = CliRunner().invoke(main, [*given, "--out", str(tmp_path / "o"), "--precision", "int8"])
    assert done.exit_code == ConfigError.exit_code
    assert "the bundle has no int8 graphs" in done.output


def test_a_trial_that_is_killed_leaves_a_whole_bundle(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantisation, "try_precision", killed)
    with pytest.raises(KeyboardInterrupt):
        add_precisions(copy, frames(range(2)), frames(range(10, 11)))
    assert shipped(read_bundle(copy).files) == ("fp32",)


def test_without_frames_nothing_is_tried(copy: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="to judge on"):
        add_precisions(copy, frames(range(1)), [])
    assert (copy / "manifest.json").read_bytes() == before
    with pytest.raises(DataError, match="to calibrate"):
        add_precisions(copy, [], frames(range(1)))
    read_bundle(copy)


def test_the_command_tries_the_workspaces_student(workshop: Workshop, tmp_path: Path) -> None:
    home = Path(shutil.copytree(workshop.home.root, tmp_path / "home"))
    done = CliRunner().invoke(training_side, ["precisions", "--home", str(home)])
    assert done.exit_code == 0, done.output
    assert "int8: " in done.output
    assert "MB, float32" in done.output
    released = home / "models" / "released" / workshop.bundle.version
    trial = read_document(released / FILE, Precisions).trials[0]
    assert np.isfinite(trial.max_abs)
    empty = CliRunner().invoke(training_side, ["precisions", "--home", str(tmp_path / "none")])
    assert empty.exit_code != 0
    assert "no student is released" in empty.output
