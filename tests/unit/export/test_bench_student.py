"""The bench of the student runs on a released bundle, and says nothing where there is none."""

from pathlib import Path

import pytest

from bench.student import AIMS, installed_mb, measure
from tests.unit.export.conftest import Workshop

ABSENT = {
    "encoder_ratio_vs_teacher",
    "iou_without_teacher",
    "arcade_auto_dice",
    "arcade_auto_cldice",
}


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


def test_without_a_released_student_every_figure_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANGIOLOOP_HOME", str(tmp_path))
    assert set(measure(quick=True).values()) == {None}


def test_the_size_installed_counts_the_runtime_and_its_dependencies() -> None:
    assert installed_mb("infer") > installed_mb("no such extra") + 10
