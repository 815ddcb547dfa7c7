"""The `casebook` command: bring cases in, look at them, and make phantoms.

Knows no format. Results go to stdout, progress to stderr.
"""

import json
import os
from pathlib import Path

import click

from angio.commands.deid import deid
from angio.commands.exports import export
from angio.commands.forget import forget
from angio.commands.imports import import_
from angio.commands.lineage import check, diff
from angio.commands.measures import agree, measure
from angio.commands.options import Commands, bar, home_option, json_option, open_catalogue
from angio.commands.plain_exports import COMMANDS as PLAIN_EXPORTS
from angio.commands.plain_imports import COMMANDS as PLAIN_IMPORTS
from angio.importing import spacing_text
from angio.phantoms.study import write_study
from casebook.cases import Case, Split


@click.group(cls=Commands)
def main() -> None:
    """Cases: import them, list them, and write phantoms with known truth."""


main.add_command(import_)
main.add_command(measure)
main.add_command(agree)
main.add_command(deid)
main.add_command(forget)
main.add_command(export)
main.add_command(check)
main.add_command(diff)
for command in PLAIN_IMPORTS:
    import_.add_command(command)
for command in PLAIN_EXPORTS:
    export.add_command(command)


@main.command("list")
@home_option
@click.option(
    "--split", type=click.Choice([split.value for split in Split]), help="Only this split."
)
@click.option("--annotated", is_flag=True, help="Only cases with expert annotations.")
@json_option
def list_(home: Path | None, split: str | None, annotated: bool, as_json: bool) -> None:
    """List the cases of the workspace.

    Example: casebook list --split val --json
    """
    cases = open_catalogue(home).cases(
        split=Split(split) if split else None, annotated=True if annotated else None
    )
    if as_json:
        start = "["
        for case in cases:  # one at a time: a catalogue may be larger than memory
            click.echo(start + case.model_dump_json(by_alias=True), nl=False)
            start = ",\n"
        click.echo("[]" if start == "[" else "]")
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


@main.command()
@click.argument("case_id")
@home_option
@json_option
def show(case_id: str, home: Path | None, as_json: bool) -> None:
    """Show one case with the annotations that came with it.

    Example: casebook show c0a1b2c3d4e5f6
    """
    catalogue = open_catalogue(home)
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
    for name, value in case.extra.items():
        click.echo(f"{name}: {value}")
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
@json_option
def phantoms(
    directory: Path, seed: int, patients: int, unseen: int, workers: int, as_json: bool
) -> None:
    """Write a phantom study in the lab's own format, with its truth in a folder apart.

    Example: casebook phantoms phantoms/ --seed 1 --patients 44
    """
    with bar("patients") as progress:
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
