"""`casebook import`: bring cases in from what labs have.

Knows no format; the imports do the work. Results go to stdout, progress to stderr.
"""

from pathlib import Path
from typing import get_args

import click

from angio.arcade import Task, import_arcade
from angio.commands.options import (
    bar,
    dry_run_option,
    home_option,
    json_option,
    labels_option,
    pair,
)
from angio.contours import AngleSign
from angio.dicom_folder import DicomOptions, import_dicom
from angio.importing import import_csv
from angio.intake import ImportReport
from angio.lab_csv import CsvOptions
from angio.rendering import Look
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import read_labels

_neighbours = click.option(
    "--neighbours",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Unlabelled frames kept on each side of the annotated one.",
)


@click.group("import")
def import_() -> None:
    """Bring cases into the workspace, de-identified and rendered once."""


def tell(report: ImportReport, as_json: bool) -> None:
    """Say what came in on stdout, and every kind of problem on stderr.

    Raises:
        DataError: something was left out.
    """
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        done = "would be imported" if report.dry_run else "imported"
        splits = ", ".join(f"{name} {number}" for name, number in report.splits.items())
        kept = f", {report.not_read} there and not read again" if report.not_read else ""
        click.echo(
            f"{report.imported} cases {done}, {report.replaced} replaced, {report.unchanged} "
            f"unchanged{kept}; {report.annotated} with expert annotations ({splits or 'none'})"
        )
        for note in report.notes:
            click.echo(f"note: {note}", err=True)
        for group in report.groups:
            click.echo(f"{group.count} × {group.kind}", err=True)
            for problem in group.examples:
                click.echo(f"    {problem.where}: {problem.message}", err=True)
        if report.problems:
            click.echo("(--json lists every one)", err=True)
    usable = report.imported + report.replaced + report.unchanged + report.not_read
    parts = len(report.problems) - report.left_out
    without = f", {parts} without a part" if parts else ""
    if not usable:
        raise DataError(f"no case could be used ({report.left_out} left out; see above)")
    if report.problems:
        raise DataError(f"{report.left_out} left out, {usable} usable{without}; see above")


@import_.command("csv")
@click.argument("path", type=click.Path(path_type=Path))
@home_option
@labels_option("coronary.yaml")
@click.option(
    "--angles",
    type=click.Choice(get_args(AngleSign)),
    default="lao-positive",
    show_default=True,
    help="What a positive primary angle means in this CSV.",
)
@click.option(
    "--path-map",
    "path_maps",
    multiple=True,
    metavar="FROM=TO",
    help="Put TO in place of a path's beginning, for instance E:/study=data.",
)
@click.option(
    "--validation-csv",
    type=click.Path(path_type=Path),
    help="Another CSV of this form; the patients in it are for validation.",
)
@click.option(
    "--new-only", is_flag=True,
    help="Do not read rows again whose case is here: after rulings on held frames, for instance.",
)  # fmt: skip
@_neighbours
@dry_run_option
@json_option
def import_csv_(
    path: Path,
    home: Path | None,
    labels: Path,
    angles: AngleSign,
    path_maps: tuple[str, ...],
    validation_csv: Path | None,
    new_only: bool,
    neighbours: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import the lab's CSV with its cines and contours.

    Example: casebook import csv study/cases.csv

    Example: casebook import csv cases.csv --path-map E:/study=data --dry-run --json
    """
    options = CsvOptions(
        angle_sign=angles, path_map=tuple(pair(text, "--path-map") for text in path_maps)
    )
    with bar("rows") as progress:
        report = import_csv(
            path, Home.resolve(home), read_labels(labels), options, validation=validation_csv,
            neighbours=neighbours, new_only=new_only, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    tell(report, as_json)


@import_.command("arcade")
@click.argument("path", type=click.Path(path_type=Path))
@home_option
@labels_option("arcade.yaml")
@click.option(
    "--task", type=click.Choice(get_args(Task)), default="syntax", show_default=True,
    help="Segments, or stenoses.",
)  # fmt: skip
@click.option(
    "--bootstrap", type=click.IntRange(min=0), default=50, show_default=True,
    help="Train pictures that come with annotations, for round 1.",
)  # fmt: skip
@click.option(
    "--val", type=click.IntRange(min=0), default=25, show_default=True,
    help="Train pictures that become frozen validation cases.",
)  # fmt: skip
@click.option(
    "--split-map", "split_maps", multiple=True, metavar="THEIRS=OURS",
    help="What the data set's other splits become, for instance val=test.",
)  # fmt: skip
@dry_run_option
@json_option
def import_arcade_(
    path: Path,
    home: Path | None,
    labels: Path,
    task: Task,
    bootstrap: int,
    val: int,
    split_maps: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import ARCADE, the public set of annotated angiograms.

    Example: casebook import arcade arcade/ --bootstrap 50 --val 25 --split-map val=test
    """
    with bar("pictures") as progress:
        report = import_arcade(
            path, Home.resolve(home), read_labels(labels), task=task, bootstrap=bootstrap, val=val,
            split_map=dict(pair(text, "--split-map") for text in split_maps),
            dry_run=dry_run, progress=progress,
        )  # fmt: skip
    tell(report, as_json)


@import_.command("dicom")
@click.argument("path", type=click.Path(path_type=Path))
@home_option
@click.option(
    "--frame",
    type=click.IntRange(min=0),
    help="Frame to annotate, from 0. [default: the best filled, stillest and sharpest]",
)
@_neighbours
@click.option(
    "--subtract", is_flag=True, help="Subtract the mask, in files that name their mask frames."
)
@click.option(
    "--look",
    type=click.Choice(get_args(Look)),
    default="contrast",
    show_default=True,
    help="Rendering: each frame's own contrast, as models expect it, or the file's VOI window.",
)
@dry_run_option
@json_option
def import_dicom_(
    path: Path,
    home: Path | None,
    frame: int | None,
    neighbours: int,
    subtract: bool,
    look: Look,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a folder of DICOM angiograms or echo clips that nobody has annotated yet.

    Example: casebook import dicom export/ --dry-run

    Example: casebook import dicom export/ --subtract
    """
    options = DicomOptions(frame=frame, neighbours=neighbours, subtract=subtract, look=look)
    with bar("files") as progress:
        report = import_dicom(path, Home.resolve(home), options, dry_run=dry_run, progress=progress)
    tell(report, as_json)
