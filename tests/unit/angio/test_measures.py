"""`casebook measure` and `casebook agree` on a phantom study whose lab values are the truth."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from angio.cli import main
from angio.measurements import measure_case, measured_by_the_lab
from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.errors import DataError
from casebook.home import Home


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _home(workspace: Catalogue) -> Path:
    return workspace.folder("x").parents[1]


def test_a_case_is_measured_in_mm_with_their_source(workspace: Catalogue) -> None:
    case = next(measured_by_the_lab(workspace))
    result = _run("measure", case.case_id, "--home", _home(workspace))
    assert result.exit_code == 0
    assert "% stenosis" in result.stdout
    assert "mm (calibrated)" in result.stdout
    assert "stored pixels" in result.stdout
    answer = json.loads(_run("measure", case.case_id, "--home", _home(workspace), "--json").stdout)
    (found,) = answer["measurements"]
    assert found["lesion"]["mld_mm"] == pytest.approx(found["given"]["mld_mm"], abs=0.35)


def test_a_case_without_experts_is_refused(workspace: Catalogue) -> None:
    case = next(iter(workspace.cases(annotated=False)))
    result = _run("measure", case.case_id, "--home", _home(workspace))
    assert result.exit_code == 6
    assert "no segment drawn by an expert" in result.stderr


def test_the_labs_values_are_compared_and_plotted(workspace: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "agreement"
    result = _run("agree", "--home", _home(workspace), "--out", out)
    assert result.exit_code == 0, result.stderr
    report = json.loads((out / "agreement.json").read_text())
    tables = {table["name"]: table for table in report["agreements"]}
    measured = [one for one in report["measurements"] if one["lesion"]]
    assert tables["mld_mm"]["n"] == tables["diameter_stenosis_pct"]["n"] == len(measured) >= 3
    assert abs(tables["mld_mm"]["bias"]["value"]) < 0.15
    assert tables["diameter_stenosis_pct"]["mean_abs"] < 6
    assert tables["mld_mm"]["pearson_r"] > 0.95
    for name in tables:
        assert name in result.stdout
        assert (out / f"{name}.svg").read_text().startswith("<svg")
    assert json.loads(_run("agree", "--home", _home(workspace), "--json").stdout) == report


def test_a_workspace_without_lab_values_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    assert _run("agree", "--home", tmp_path).exit_code == 2
    empty = tmp_path / "empty"
    Catalogue(Home(empty))
    result = _run("agree", "--home", empty)
    assert result.exit_code == 3
    assert "fewer than 3 pairs" in result.stderr


def test_damaged_stored_bits_are_named_and_absent_ones_replaced(workspace: Catalogue) -> None:
    case = list(measured_by_the_lab(workspace))[-1]
    path = workspace.stored_path(FrameRef(case_id=case.case_id, frame=case.frame))
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:100])
        with pytest.raises(DataError, match="cannot be read"):
            measure_case(workspace, case)
        path.unlink()
        assert {one.pixels for one in measure_case(workspace, case)} == {"rendered"}
    finally:
        path.write_bytes(whole)
