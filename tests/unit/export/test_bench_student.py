"""The bench of the student runs on a released bundle, and says nothing where there is none."""

from pathlib import Path

import pytest

from angio.arcade import read_arcade
from bench.student import AIMS, alone_iou, installed_mb, measure
from bench.student_teacher import encoder_s
from bench.student_tree import HELD_OUT, split_off
from segmenter.sam3 import SMALLEST
from tests.unit.export.conftest import Workshop
from tests.unit.export.workshop import unchecked

ARCADE = {
    "arcade_auto_dice",
    "arcade_auto_cldice",
    "arcade_held_out_dice",
    "arcade_train_minutes",
    "arcade_train_core_minutes",
}
ABSENT = {"encoder_ratio_vs_teacher", "iou_without_teacher", *ARCADE}
"""With small counts, and without ARCADE."""


@pytest.fixture(autouse=True)
def _no_arcade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANGIOLOOP_ARCADE_DIR", raising=False)


def test_the_bench_measures_what_a_bundle_can_show(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(workshop.home.root))
    figures = measure(quick=True)
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
        figures = measure(quick=True)
    known = {name: value for name, value in figures.items() if value is not None}
    assert set(known) == ARCADE
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


def test_without_a_released_student_every_figure_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path))
    assert set(measure(quick=True).values()) == {None}


def test_the_size_installed_counts_the_runtime_and_its_dependencies() -> None:
    assert installed_mb("infer") > installed_mb("no such extra") + 10


def test_the_teachers_encoder_is_timed_at_the_sizes_given() -> None:
    seconds, side_px = encoder_s(1, SMALLEST)
    assert seconds > 0
    assert side_px == SMALLEST.side_px
