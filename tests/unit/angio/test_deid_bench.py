"""The de-identification bench finds what was planted, and what is planted covers the profile."""

import subprocess
import sys
from pathlib import Path

from pydicom.datadict import keyword_for_tag

from angio.dicom.identity import KEPT, REMAPPED, SHIFTED
from angio.phantoms.truth import StudyTruth
from bench.deid import leaks, outside_private
from bench.harness import BenchResult
from bench.planted import plant, profile_tags


def test_nothing_that_is_kept_is_in_the_profile() -> None:
    """PS3.15 Table E.1-1 removes, replaces or cleans every one of its elements."""
    profile = {keyword_for_tag(tag) for tag in profile_tags()}
    assert len(profile) > 600
    assert KEPT & profile == set()
    assert profile >= REMAPPED | SHIFTED


def test_the_checker_sees_what_is_not_removed(
    study: tuple[Path, StudyTruth], tmp_path: Path
) -> None:
    source = sorted(study[0].rglob("*.dcm"))[0]
    _, planted = plant(source, tmp_path / "seen.dcm", start=10000)
    found = {where for where, _ in leaks(planted, outside_private(tmp_path))}
    assert len(found) > 550
    assert {"private", "private, nested", "(0010,0010)", "(0008,1140)"} <= found


def test_a_quick_run_finds_no_planted_value_and_all_text() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "bench.deid", "--quick"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    result = BenchResult.model_validate_json(told.stdout.splitlines()[-1])
    assert result.figures["recall"] == 1.0
    assert (result.figures["elements"] or 0) > 1200
    assert (result.figures["pixel_text_recall"] or 0) >= 0.85
    assert (result.figures["refused_fraction"] or 0) <= 0.5
