"""The bench of the student runs on a released bundle, and says nothing where there is none."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from angio.arcade import read_arcade
from bench import harness
from bench.harness import BenchResult, run_parts
from bench.student import AIMS, PARTS, Figures, alone_iou, installed_mb
from bench.student_teacher import encoder_s
from bench.student_tree import HELD_OUT, spent_before, split_off, train_and_score
from segmenter.sam3 import SMALLEST
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import unchecked

ROOT = Path(__file__).parents[3]
ARCADE = {
    "arcade_auto_dice",
    "arcade_auto_cldice",
    "arcade_held_out_dice",
    "arcade_train_minutes",
    "arcade_train_core_minutes",
    "arcade_train_threads",
}
LEARNT = {"learnt_ds_mae_points", "qca_ds_mae_points", "learnt_rvd_mae_px", "qca_rvd_mae_px"}
ABSENT = {"encoder_ratio_vs_teacher", "iou_without_teacher", *LEARNT, *ARCADE}
"""With small counts, and without ARCADE."""


def measure() -> Figures:
    """All parts with small counts."""
    return {name: value for part in PARTS.values() for name, value in part(True).items()}


@pytest.fixture(autouse=True)
def _no_arcade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGIOLOOP_ARCADE_DIR", raising=False)


def test_the_bench_measures_what_a_bundle_can_show(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(workshop.home.root))
    figures = measure()
    assert {name for name, value in figures.items() if value is None} == ABSENT
    assert set(AIMS) <= set(figures)
    gates = workshop.bundle.gates  # of a student taught for a few steps, which may find nothing
    assert figures.pop("iou_ratio_vs_teacher") == gates.iou_ratio
    assert figures.pop("cldice_ratio_vs_teacher") == gates.cldice_ratio
    assert all(value > 0 for value in figures.values() if value is not None)


def test_the_trees_of_real_angiograms_are_scored_without_a_released_student(
    arcade_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_ARCADE_DIR", str(arcade_dir))
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path))
    with unchecked():
        figures = measure()
    known = {name: value for name, value in figures.items() if value is not None}
    assert set(known) == {*ARCADE, "install_mb", "install_no_bytecode_mb"}
    assert known["arcade_auto_dice"] > 0.2  # two steps from the base, which knows lines
    assert known["arcade_auto_dice"] <= 1.0
    assert not (tmp_path / "bench").exists()


def test_the_pictures_that_teach_cut_and_score_are_always_the_same_and_apart(
    arcade_dir: Path,
) -> None:
    images = [image for image in read_arcade(arcade_dir) if image.split == "train"]
    taught, held = split_off(images)
    again, _ = split_off(list(reversed(images)))
    assert (len(taught), len(held)) == (160, HELD_OUT)
    assert {one.path for one in taught}.isdisjoint({one.path for one in held})
    assert [one.path for one in taught] == [one.path for one in again]


def test_what_a_student_reaches_without_the_teacher_is_taught_from_the_exercises(
    workshop: Workshop,
) -> None:
    config = workshop.bundle.card.config
    assert "student_base" not in config
    found = alone_iou(workshop.home, workshop.bundle, base=None)
    assert found is not None
    assert 0.0 <= found <= 1.0
    checkpoints = workshop.home.root / "distil" / workshop.bundle.version / "without-teacher"
    assert list(checkpoints.glob("step-*.safetensors"))


def test_without_a_released_student_only_the_size_installed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path))
    figures = measure()
    assert figures.pop("install_mb") == installed_mb("infer")
    assert figures.pop("install_no_bytecode_mb") == installed_mb("infer", byte_code=False)
    assert set(figures.values()) == {None}


def test_the_size_installed_counts_the_runtime_and_its_dependencies() -> None:
    assert installed_mb("infer") > installed_mb("no such extra") + 10
    assert 10 < installed_mb("infer", byte_code=False) <= installed_mb("infer")


def test_the_teachers_encoder_is_timed_at_the_sizes_given() -> None:
    seconds, side_px = encoder_s(1, SMALLEST)
    assert seconds > 0
    assert side_px == SMALLEST.side_px


def test_parts_measured_apart_end_in_one_result(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(workshop.home.root))
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    for part in ("gates", "tree"):
        monkeypatch.setattr("sys.argv", ["bench", "--quick", "--keep", "--part", part])
        run_parts("student", PARTS, AIMS)
    kept = BenchResult.model_validate_json((tmp_path / "student.json").read_bytes())
    assert kept.figures["iou_ratio_vs_teacher"] == workshop.bundle.gates.iou_ratio
    assert set(kept.figures) >= ARCADE  # absent, but told
    assert "frame_ms_median" not in kept.figures
    assert [one.split(" ")[0] for one in kept.commit.split(", ")] == ["gates", "tree"]
    assert kept.met is None


def test_a_killed_tree_training_goes_on_and_counts_what_it_took_before(
    arcade_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ("train.steps=6", "train.checkpoint_every=1", "train.log_every=1")
    program = (
        "import sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from bench.student_tree import train_and_score\n"
        "root, into, *rest = sys.argv[1:]\n"
        "train_and_score(Path(root), Path(into), quick=True, overrides=rest)\n"
    )
    arguments = (str(arcade_dir), str(tmp_path), *overrides)
    with subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=ROOT) as child:
        while not (tmp_path / "step-00000002.safetensors").exists():
            assert child.poll() is None
            time.sleep(0.01)
        child.kill()
    before = spent_before(tmp_path)
    assert before.processor_s > 0
    with unchecked():
        found = train_and_score(arcade_dir, tmp_path, quick=True, overrides=overrides)
    told = capsys.readouterr().out
    assert "step 1 of 6" not in told
    assert "step 6 of 6" in told
    assert 60 * found.core_minutes > before.processor_s
    assert found.threads == 1
