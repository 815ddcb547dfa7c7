"""Rows that name no frame: the one that shows most is taken, and the case says why."""

import csv
from pathlib import Path

import numpy as np
import pytest

from angio.importing import UNNAMED_FRAME, import_csv
from angio.phantoms.bolus import draw_bolus
from angio.phantoms.render import render_cine
from casebook.catalogue import Catalogue
from casebook.home import Home
from casebook.labels import LabelSet


def table(folder: Path, frames: tuple[str, ...]) -> Path:
    """A CSV whose rows share a cine and name these frames."""
    path = folder / "cases.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row_id", "patient_id", "cine_path", "frame_index", "cass_segment"])
        for number, frame in enumerate(frames):
            writer.writerow([f"r{number}", "101-0001", "cine.npy", frame, 2])
    return path


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_a_row_without_a_frame_gets_a_filled_one_and_its_score(
    tmp_path: Path, coronary: LabelSet, kind: str
) -> None:
    bolus = draw_bolus(np.random.default_rng([5, 100]), 24)
    run = render_cine(np.random.default_rng([6, 100]), bolus.scene) / 4095
    shown = np.rint(run * 255).astype(np.uint8) if kind == "uint8" else run.astype(np.float32)
    np.save(tmp_path / "cine.npy", shown)
    home = Home(tmp_path / "home")
    report = import_csv(table(tmp_path, ("", "3")), home, coronary)
    assert (report.imported, report.problems) == (2, ())
    assert any(UNNAMED_FRAME in note for note in report.notes)
    chosen, named = sorted(
        Catalogue(home).cases(), key=lambda case: "frame_choice" not in case.extra
    )
    assert named.frame == 3
    assert "frame_choice" not in named.extra
    assert chosen.frame in bolus.plateau
    assert f"frame {chosen.frame}, score " in chosen.extra["frame_choice"]


def test_a_frame_beyond_the_run_is_refused(tmp_path: Path, coronary: LabelSet) -> None:
    ramp = np.add.outer(np.arange(4), np.add.outer(np.arange(64), np.arange(64)))
    np.save(tmp_path / "cine.npy", ramp.astype(np.uint8))
    report = import_csv(table(tmp_path, ("9",)), Home(tmp_path / "home"), coronary)
    assert [problem.message for problem in report.problems] == [
        "the cine file has 4 frames; frame 9 was asked for; correct frame_index"
    ]
