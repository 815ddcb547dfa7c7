"""`casebook export nifti|yolo`: masks back on their volume's grid, and data sets for YOLO.

Knows no format; the writers do the work.
"""

import json
from pathlib import Path

import click

from angio.commands.options import home_option, json_option, open_catalogue
from angio.drawings import Drawings, expert_drawings, round_drawings
from angio.nifti import records_folder, write_masks
from angio.yolo_export import write_yolo
from casebook.catalogue import Catalogue
from casebook.errors import StateError
from casebook.home import Home
from casebook.labels import read_labels

_out = click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Where the files go."
)
_labels = click.option(
    "--labels", type=click.Path(path_type=Path), required=True,
    help="The label file of the import; it numbers the labels.",
)  # fmt: skip
_round = click.option(
    "--round",
    "number",
    type=click.IntRange(min=1),
    help="What this round annotated. [default: what came with the cases]",
)


def _drawings(catalogue: Catalogue, home: Path | None, number: int | None) -> Drawings:
    return round_drawings(Home.resolve(home), number) if number else expert_drawings(catalogue)


@click.command("nifti")
@click.option("--volume", "volumes", multiple=True, help="A volume's id. [default: all with masks]")
@_out
@_labels
@_round
@home_option
@json_option
def nifti(
    volumes: tuple[str, ...],
    out: Path,
    labels: Path,
    number: int | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Put the masks of slices together as NIfTI volumes, with the affine they came with.

    Example: casebook export nifti --labels my-labels.yaml --out masks/
    """
    catalogue, place = open_catalogue(home), Home.resolve(home)
    drawings = _drawings(catalogue, home, number)
    wanted = volumes or tuple(path.stem for path in sorted(records_folder(place).glob("*.json")))
    if not wanted:
        raise StateError("no volume was imported; see `casebook import nifti`")
    written = []
    for volume_id in wanted:
        try:
            found = write_masks(place, volume_id, read_labels(labels), drawings, out)
        except StateError:
            if volumes:
                raise
            continue
        written.append(found)
        if not as_json:
            click.echo(
                f"{found.file}: {found.drawn} of {found.n_slices} slices drawn, "
                f"{found.overlaps_px} px claimed twice"
            )
    if not written:
        raise StateError("no volume has slices with masks; import or pull some first")
    if as_json:
        click.echo(json.dumps([found.model_dump(mode="json") for found in written], indent=1))


@click.command("yolo")
@_out
@_labels
@click.option("--boxes", is_flag=True, help="Boxes instead of polygons.")
@_round
@home_option
@json_option
def yolo(
    out: Path, labels: Path, boxes: bool, number: int | None, home: Path | None, as_json: bool
) -> None:
    """Write annotated cases as a YOLO data set: pictures, polygons or boxes, data.yaml.

    Example: casebook export yolo --labels conf/labels/coronary.yaml --out yolo/
    """
    catalogue = open_catalogue(home)
    report = write_yolo(
        catalogue, _drawings(catalogue, home, number), read_labels(labels), out, boxes=boxes
    )
    if as_json:
        click.echo(report.model_dump_json(indent=1))
        return
    splits = ", ".join(f"{name} {count}" for name, count in sorted(report.pictures.items()))
    click.echo(f"{report.folder}: {splits}; {report.lines} lines")
    if report.holes_filled:
        click.echo(f"note: {report.holes_filled} masks had holes; YOLO has none, so they are full")


COMMANDS = (nifti, yolo)
