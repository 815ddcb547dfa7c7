"""`casebook import coco|yolo|images|nifti`: data sets of any domain, with their own label file.

Knows no format; the imports do the work.
"""

from pathlib import Path
from typing import get_args

import click

from angio.coco import import_coco
from angio.commands.imports import tell
from angio.commands.options import F, bar, dry_run_option, home_option, json_option
from angio.image_folder import import_images
from angio.nifti import NiftiOptions, import_nifti
from angio.volumes import Plane
from angio.yolo import import_yolo
from casebook.cases import Split
from casebook.errors import ConfigError
from casebook.home import Home
from casebook.labels import read_labels

_path = click.argument("path", type=click.Path(path_type=Path))
_labels = click.option(
    "--labels", type=click.Path(path_type=Path), required=True,
    help="What may be annotated, in the form of conf/labels.",
)  # fmt: skip
_split = click.option(
    "--split", type=click.Choice([split.value for split in Split]),
    help="The split of everything in it. [default: by patient or picture]",
)  # fmt: skip


def _shared(command: F) -> F:
    """What every data set without a header is asked."""
    for option in (
        json_option,
        dry_run_option,
        click.option(
            "--ruled-clean", is_flag=True,
            help="You have looked: no picture carries text. Without it each is checked.",
        ),
        click.option(
            "--patients", type=click.Path(path_type=Path),
            help="CSV with file, patient_id and perhaps split. [default: each stands for itself]",
        ),
        home_option,
    ):  # fmt: skip
        command = option(command)
    return command


def _chosen(split: str | None) -> Split | None:
    return Split(split) if split else None


@click.command("coco")
@_path
@_labels
@click.option(
    "--images", type=click.Path(path_type=Path),
    help="Folder of the pictures. [default: images/ beside the file, or its folder]",
)  # fmt: skip
@_split
@click.option("--skip", multiple=True, metavar="CATEGORY", help="A category to leave out.")
@_shared
def import_coco_(
    path: Path,
    labels: Path,
    images: Path | None,
    split: str | None,
    skip: tuple[str, ...],
    home: Path | None,
    patients: Path | None,
    ruled_clean: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a COCO file: polygons and run lengths become masks, boxes become prompts.

    Example: casebook import coco set/train.json --labels my-labels.yaml --split train
    """
    with bar("pictures") as progress:
        report = import_coco(
            path, Home.resolve(home), read_labels(labels), images=images, split=_chosen(split),
            patients=patients, skip=skip, ruled_clean=ruled_clean, dry_run=dry_run,
            progress=progress,
        )  # fmt: skip
    tell(report, as_json)


@click.command("yolo")
@_path
@_labels
@_shared
def import_yolo_(
    path: Path,
    labels: Path,
    home: Path | None,
    patients: Path | None,
    ruled_clean: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a YOLO data set by its data.yaml: polygons become masks, boxes become prompts.

    Example: casebook import yolo set/data.yaml --labels my-labels.yaml
    """
    with bar("pictures") as progress:
        report = import_yolo(
            path, Home.resolve(home), read_labels(labels), patients=patients,
            ruled_clean=ruled_clean, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    tell(report, as_json)


@click.command("images")
@_path
@_labels
@click.option(
    "--masks", type=click.Path(path_type=Path),
    help="Folder of the masks. [default: masks/ in the folder]",
)  # fmt: skip
@_split
@_shared
def import_images_(
    path: Path,
    labels: Path,
    masks: Path | None,
    split: str | None,
    home: Path | None,
    patients: Path | None,
    ruled_clean: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a folder of pictures, with masks of label codes or one file a label.

    Example: casebook import images scans/ --masks scans-masks/ --labels my-labels.yaml
    """
    with bar("pictures") as progress:
        report = import_images(
            path, Home.resolve(home), read_labels(labels), masks=masks, split=_chosen(split),
            patients=patients, ruled_clean=ruled_clean, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    tell(report, as_json)


def _window(text: str) -> tuple[float, float]:
    centre, _, width = text.partition(",")
    try:
        return float(centre), float(width)
    except ValueError:
        raise ConfigError(
            f"--window {text!r}; expected CENTRE,WIDTH, for instance 40,400"
        ) from None


@click.command("nifti")
@_path
@_labels
@click.option(
    "--masks", type=click.Path(path_type=Path),
    help="A label volume, or a folder with one of the same name for some volumes.",
)  # fmt: skip
@click.option(
    "--plane", type=click.Choice(get_args(Plane)), default="axial", show_default=True,
    help="The plane of the slices.",
)  # fmt: skip
@click.option(
    "--window", default="40,400", show_default=True, metavar="CENTRE,WIDTH",
    help="Values that are shown, HU for CT.",
)  # fmt: skip
@click.option(
    "--every", type=click.IntRange(min=1), default=1, show_default=True,
    help="Every how many slices one is taken.",
)  # fmt: skip
@click.option("--assume-mm", is_flag=True, help="Take spacing without a unit for millimetres.")
@_split
@_shared
def import_nifti_(
    path: Path,
    labels: Path,
    masks: Path | None,
    plane: Plane,
    window: str,
    every: int,
    assume_mm: bool,
    split: str | None,
    home: Path | None,
    patients: Path | None,
    ruled_clean: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import NIfTI volumes, a slice a case, with the masks of label volumes.

    Example: casebook import nifti imagesTr/ --masks labelsTr/ --labels my-labels.yaml
    """
    options = NiftiOptions(
        plane=plane, window=_window(window), every=every, assume_mm=assume_mm,
        ruled_clean=ruled_clean,
    )  # fmt: skip
    with bar("volumes") as progress:
        report = import_nifti(
            path, Home.resolve(home), read_labels(labels), options, masks=masks,
            split=_chosen(split), patients=patients, dry_run=dry_run, progress=progress,
        )  # fmt: skip
    tell(report, as_json)


COMMANDS = (import_coco_, import_yolo_, import_images_, import_nifti_)
