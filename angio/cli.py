"""The `casebook` command: bring cases in, look at them, and make phantoms.

Knows no format; imports do the work. Results go to stdout, progress to stderr.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from tqdm import tqdm

from angio.arcade import Task, import_arcade
from angio.dicom_folder import import_dicom
from angio.importing import import_csv, spacing_text
from angio.intake import ImportReport, Progress, first_of_each
from angio.lab_csv import AngleSign, CsvOptions
from angio.phantoms.study import write_study
from casebook.cases import Case, Split
from casebook.catalogue import Catalogue
from casebook.errors import AngioloopError, ConfigError, DataError
from casebook.home import Home
from casebook.labels import read_labels

F = TypeVar("F", bound=Callable[..., Any])

LABELS = Path("conf/labels")


class Commands(click.Group):
    """A group whose expected failures are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn our errors into a message."""
        try:
            return super().invoke(ctx)
        except AngioloopError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_code)


_home = click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
_json = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
_dry = click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")


def _labels(default: str) -> Callable[[F], F]:
    return click.option(
        "--labels",
        type=click.Path(path_type=Path),
        default=LABELS / default,
        show_default=True,
        help="What may be annotated.",
    )


_neighbours = click.option(
    "--neighbours",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Unlabelled frames kept on each side of the annotated one.",
)


@click.group(cls=Commands)
def main() -> None:
    """Cases: import them, list them, and write phantoms with known truth."""


@main.group("import")
def import_() -> None:
    """Bring cases into the workspace, de-identified and rendered once."""


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A bar on stderr, only where a person looks at it."""
    with tqdm(desc=what, unit="", file=sys.stderr, leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _tell(report: ImportReport, as_json: bool) -> None:
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        done = "would be imported" if report.dry_run else "imported"
        splits = ", ".join(f"{name} {number}" for name, number in report.splits.items())
        click.echo(
            f"{report.imported} cases {done}, {report.replaced} replaced, {report.unchanged} "
            f"unchanged; {report.annotated} with expert annotations ({splits or 'none'})"
        )
        for note in report.notes:
            click.echo(f"note: {note}", err=True)
        for line in first_of_each(report.problems):
            click.echo(f"left out: {line}", err=True)
    usable = report.imported + report.replaced + report.unchanged
    if not usable:
        raise DataError(f"no case could be used ({len(report.problems)} left out; see above)")
    if report.problems:
        raise DataError(f"{len(report.problems)} left out, {usable} usable; see above")


@import_.command("csv")
@click.argument("path", type=click.Path(path_type=Path))
@_home
@_labels("coronary.yaml")
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
@_neighbours
@_dry
@_json
def import_csv_(
    path: Path,
    home: Path | None,
    labels: Path,
    angles: AngleSign,
    path_maps: tuple[str, ...],
    neighbours: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import the lab's CSV with its cines and contours.

    Example: casebook import csv study/cases.csv

    Example: casebook import csv cases.csv --path-map E:/study=data --dry-run --json
    """
    options = CsvOptions(
        angle_sign=angles, path_map=tuple(_pair(text, "--path-map") for text in path_maps)
    )
    with _bar("rows") as progress:
        report = import_csv(
            path, Home.resolve(home), read_labels(labels), options,
            neighbours=neighbours, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    _tell(report, as_json)


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise ConfigError(f"{option} {text!r}; expected FROM=TO")
    return name, value


@import_.command("arcade")
@click.argument("path", type=click.Path(path_type=Path))
@_home
@_labels("arcade.yaml")
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
@_dry
@_json
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
    with _bar("pictures") as progress:
        report = import_arcade(
            path, Home.resolve(home), read_labels(labels), task=task, bootstrap=bootstrap, val=val,
            split_map=dict(_pair(text, "--split-map") for text in split_maps),
            dry_run=dry_run, progress=progress,
        )  # fmt: skip
    _tell(report, as_json)


@import_.command("dicom")
@click.argument("path", type=click.Path(path_type=Path))
@_home
@click.option(
    "--frame", type=click.IntRange(min=0), help="Frame to annotate, from 0. [default: the middle]"
)
@_neighbours
@_dry
@_json
def import_dicom_(
    path: Path,
    home: Path | None,
    frame: int | None,
    neighbours: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a folder of DICOM angiograms that nobody has annotated yet.

    Example: casebook import dicom export/ --dry-run
    """
    with _bar("files") as progress:
        report = import_dicom(
            path, Home.resolve(home), frame=frame, neighbours=neighbours, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
    _tell(report, as_json)


@main.command("list")
@_home
@click.option(
    "--split", type=click.Choice([split.value for split in Split]), help="Only this split."
)
@click.option("--annotated", is_flag=True, help="Only cases with expert annotations.")
@_json
def list_(home: Path | None, split: str | None, annotated: bool, as_json: bool) -> None:
    """List the cases of the workspace.

    Example: casebook list --split val --json
    """
    cases = _catalogue(home).cases(
        split=Split(split) if split else None, annotated=True if annotated else None
    )
    if as_json:
        click.echo(json.dumps([case.model_dump(mode="json", by_alias=True) for case in cases]))
        return
    for case in cases:
        click.echo(_line(case))


def _line(case: Case) -> str:
    number = f"round {case.round}" if case.round else "-"
    view = str(case.view) if case.view else "no angles"
    return (
        f"{case.case_id}  {case.split.value:5}  {number:7}  {case.segment or '-':14}  "
        f"{view:24}  {spacing_text(case.spacing)}"
    )


def _catalogue(home: Path | None) -> Catalogue:
    place = Home.resolve(home)
    if not place.catalogue.exists():
        raise ConfigError(
            f"{place.root} has no catalogue; import cases with `casebook import`, or give --home"
        )
    return Catalogue(place)


@main.command()
@click.argument("case_id")
@_home
@_json
def show(case_id: str, home: Path | None, as_json: bool) -> None:
    """Show one case with the annotations that came with it.

    Example: casebook show c0a1b2c3d4e5f6
    """
    catalogue = _catalogue(home)
    case = catalogue.get(case_id)
    expert = catalogue.expert_annotations(case_id)
    if as_json:
        document = case.model_dump(mode="json", by_alias=True)
        document["expert_annotations"] = (
            [
                {"label": expert.label_of(entry), "area_px": entry.area, "origin": entry.origin}
                for entry in expert.annotations
            ]
            if expert
            else []
        )
        click.echo(json.dumps(document, indent=1))
        return
    click.echo(_line(case))
    click.echo(f"frame {case.frame} of {case.n_frames}: {catalogue.frame_path(case.ref)}")
    for entry in expert.annotations if expert else ():
        click.echo(
            f"{expert.label_of(entry) if expert else ''}: {entry.area:.0f} px, {entry.origin}"
        )


@main.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=1, show_default=True, help="Source of all chance.")
@click.option(
    "--patients", type=click.IntRange(min=3), default=44, show_default=True,
    help="Patients, each with 2 views of 2 lesions.",
)  # fmt: skip
@click.option(
    "--unseen", type=click.IntRange(min=0), default=3, show_default=True,
    help="Further patients given as one DICOM file each.",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(min=1), default=os.cpu_count() or 1,
    help="Processes that write patients side by side. [default: one for every core]",
)  # fmt: skip
@_json
def phantoms(
    directory: Path, seed: int, patients: int, unseen: int, workers: int, as_json: bool
) -> None:
    """Write a phantom study in the lab's own format, with its truth in a folder apart.

    Example: casebook phantoms phantoms/ --seed 1 --patients 44
    """
    with _bar("patients") as progress:
        study = write_study(directory, seed, patients, unseen, progress, workers)
    if as_json:
        click.echo(study.model_dump_json(indent=1))
    else:
        click.echo(
            f"{len(study.cases)} cases of {patients + unseen} patients in {directory} (phantoms "
            f"version {study.phantom_version}); import {directory / 'cases.csv'}"
        )


if __name__ == "__main__":
    main()
