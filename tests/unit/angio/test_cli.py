"""The `casebook` command: plain results on stdout, one-line errors, exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from angio.cli import main
from angio.phantoms.truth import StudyTruth

CONF = Path(__file__).parents[3] / "conf" / "labels"


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "command",
    [
        ["import", "csv"],
        ["import", "arcade"],
        ["import", "dicom"],
        ["list"],
        ["show"],
        ["phantoms"],
    ],
)
def test_every_command_shows_an_example(command: list[str]) -> None:
    result = _run(*command, "--help")
    assert result.exit_code == 0
    assert f"casebook {' '.join(command)}" in result.stdout


def test_import_list_and_show(study: tuple[Path, StudyTruth], tmp_path: Path) -> None:
    home = tmp_path / "home"
    table = study[0] / "cases.csv"
    labels = CONF / "coronary.yaml"
    dry = _run("import", "csv", table, "--home", home, "--labels", labels, "--dry-run")
    assert "12 cases would be imported" in dry.stdout
    assert not home.exists()
    result = _run("import", "csv", table, "--home", home, "--labels", labels, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["imported"] == 12
    listed = json.loads(_run("list", "--home", home, "--json").stdout)
    assert len(listed) == 12
    test = _run("list", "--home", home, "--split", "test", "--annotated").stdout.splitlines()
    assert len(test) == 4
    shown = json.loads(_run("show", listed[0]["case_id"], "--home", home, "--json").stdout)
    assert shown["case_id"] == listed[0]["case_id"]
    plain = _run("show", test[0].split()[0], "--home", home).stdout
    assert "human" in plain


def test_a_partly_bad_import_says_so_and_fails(
    study: tuple[Path, StudyTruth], tmp_path: Path
) -> None:
    rows = (study[0] / "cases.csv").read_text().splitlines()[:3]
    table = study[0] / "partly.csv"
    table.write_text("\n".join([*rows, rows[1].replace("dicom/", "lost/")]) + "\n")
    result = _run("import", "csv", table, "--home", tmp_path, "--labels", CONF / "coronary.yaml")
    assert result.exit_code == 3
    assert result.stdout.startswith("2 cases imported")
    assert "Error: 1 left out, 2 usable" in result.stderr


def test_unseen_files_come_in_from_a_folder(study: tuple[Path, StudyTruth], tmp_path: Path) -> None:
    result = _run("import", "dicom", study[0] / "unseen", "--home", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("1 cases imported")
    assert _run("import", "dicom", tmp_path / "absent", "--home", tmp_path).exit_code == 3


def test_expected_failures_are_one_line(tmp_path: Path) -> None:
    for arguments in (
        ["list", "--home", tmp_path],
        ["import", "csv", tmp_path / "absent.csv", "--labels", CONF / "coronary.yaml"],
        ["import", "arcade", tmp_path, "--labels", CONF / "arcade.yaml"],
        ["import", "csv", "x.csv", "--path-map", "E", "--labels", CONF / "coronary.yaml"],
    ):
        result = _run(*arguments)
        assert result.exit_code in {2, 3}
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1


def test_phantoms_are_written_once(tmp_path: Path) -> None:
    result = _run("phantoms", tmp_path / "p", "--patients", 3, "--unseen", 0, "--seed", 5)
    assert result.exit_code == 0
    assert "12 cases of 3 patients" in result.stdout
    assert _run("phantoms", tmp_path / "p").exit_code == 2
