"""`casebook export`: give cases and masks out in other people's formats.

Knows no format; the writers do the work. Results go to stdout, progress to stderr.
"""

from collections.abc import Callable
from pathlib import Path

import click

from angio.coco_files import DatasetManifest, write_coco
from angio.commands.options import F, home_option, json_option, labels_option, open_catalogue
from angio.datasets import Phase, Selection
from angio.nnunet_files import preprocessed_folder, write_nnunet
from angio.sam3_files import write_sam3
from angio.seg_files import write_segs
from casebook.cases import Split
from casebook.home import Home
from casebook.labels import LabelSet, read_labels
from casebook.rounds import RoundFolder


@click.group("export")
def export() -> None:
    """Give cases and masks out: nothing of a patient, only what the catalogue holds."""


def _dataset_options(command: F) -> F:
    """What every data set is told: where to, which phase, and whose masks."""
    options: tuple[Callable[[F], F], ...] = (
        click.option(
            "--out", "folder", type=click.Path(path_type=Path), required=True,
            help="A new folder.",
        ),
        click.option(
            "--phase", type=click.Choice([phase.value for phase in Phase]), default="expert",
            show_default=True,
            help="tree: whole trees, pseudo-labels too; segments: CASS segments with their hard "
            "negatives; expert: all that a person drew or reviewed.",
        ),
        click.option(
            "--round", "number", type=click.IntRange(min=1),
            help="What this round annotated. [default: what came with the cases]",
        ),
        home_option,
        labels_option("coronary.yaml"),
        json_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def _labels(place: Home, labels: Path, number: int | None) -> LabelSet:
    """A round's own labels, else those of the file."""
    return RoundFolder(place, number).manifest().labels if number else read_labels(labels)


def _tell(manifest: DatasetManifest, folder: Path, as_json: bool) -> None:
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
        return
    for split, summary in manifest.splits.items():
        click.echo(f"{split:5}  {summary.images} images, {summary.annotations} masks")
    click.echo(f"{folder}: {len(manifest.files)} files, content {manifest.content_sha256[:16]}")


@export.command("coco")
@_dataset_options
@click.option(
    "--split", "splits", type=click.Choice([split.value for split in Split]), multiple=True,
    help="Only this split; may be repeated. [default: all]",
)  # fmt: skip
def export_coco(
    folder: Path,
    phase: str,
    number: int | None,
    home: Path | None,
    labels: Path,
    splits: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write a COCO data set: images, and masks as run lengths.

    Example: casebook export coco --phase segments --split train --out segments/

    Example: casebook export coco --round 2 --out round-02/ --json
    """
    open_catalogue(home)
    place = Home.resolve(home)
    wanted = Selection(
        phase=Phase(phase),
        labels=_labels(place, labels, number),
        splits=tuple(Split(split) for split in splits) or tuple(Split),
        round=number,
    )
    manifest = write_coco(place, folder, wanted)
    place.audit("export coco", str(folder), f"content {manifest.content_sha256[:16]}")
    _tell(manifest, folder, as_json)


@export.command("sam3")
@_dataset_options
def export_sam3(
    folder: Path, phase: str, number: int | None, home: Path | None, labels: Path, as_json: bool
) -> None:
    """Write what SAM 3's own trainer reads: train, val, and a configuration for it.

    Test cases are left out. See docs/adr/0013 for why our trainer is another.

    Example: casebook export sam3 --phase segments --out sam3-data/
    """
    open_catalogue(home)
    place = Home.resolve(home)
    wanted = Selection(Phase(phase), _labels(place, labels, number), round=number)
    manifest = write_sam3(place, folder, wanted)
    place.audit("export sam3", str(folder), f"content {manifest.content_sha256[:16]}")
    _tell(manifest, folder, as_json)


@export.command("nnunet")
@_dataset_options
@click.option(
    "--partial",
    is_flag=True,
    help="Take frames of which one segment alone was analysed, too: nnU-Net then learns the others "
    "as background.",
)
@click.option(
    "--preprocessed", type=click.Path(path_type=Path),
    help="nnU-Net's folder of prepared data sets, which gets the split as well. "
    "[default: $nnUNet_preprocessed]",
)  # fmt: skip
def export_nnunet(
    folder: Path,
    phase: str,
    number: int | None,
    home: Path | None,
    labels: Path,
    as_json: bool,
    partial: bool,
    preprocessed: Path | None,
) -> None:
    """Write what nnU-Net v2 trains on: grey pictures, label pictures, and our split.

    Fold 0 is our train and val; test cases lie in imagesTs, where no training looks. Frames that
    a round found empty are taken; others without a mask are left out.

    Example: casebook export nnunet --phase tree --out nnUNet_raw/Dataset501_vessels

    Example: casebook export nnunet --labels ct.yaml --out nnUNet_raw/Dataset502_heart --json
    """
    open_catalogue(home)
    place = Home.resolve(home)
    wanted = Selection(Phase(phase), _labels(place, labels, number), round=number)
    prepared = preprocessed or preprocessed_folder()
    manifest = write_nnunet(place, folder, wanted, partial=partial, preprocessed=prepared)
    place.audit("export nnunet", str(folder), f"content {manifest.content_sha256[:16]}")
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
        return
    for split in Split:
        click.echo(f"{split.value:5}  {manifest.count(split)} pictures")
    click.echo(f"{folder}: {len(manifest.labels)} labels, {manifest.overlaps_px} px claimed twice")
    if manifest.left_out:
        click.echo(f"note: {manifest.left_out} frames with one analysed segment were left out")
    if prepared is None:
        click.echo(
            f"note: $nnUNet_preprocessed is not set; copy {folder}/splits_final.json to its folder "
            f"{manifest.dataset} before training, else nnU-Net splits anew, across patients"
        )
    for command in manifest.commands:
        click.echo(f"then: {command}")


@export.command("seg")
@_dataset_options
@click.option("--case", "cases", multiple=True, help="Only this case; may be repeated.")
def export_seg(
    folder: Path,
    phase: str,
    number: int | None,
    home: Path | None,
    labels: Path,
    cases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write masks as DICOM SEG with coded names, each beside its de-identified frame.

    Example: casebook export seg --round 2 --out seg/

    Example: casebook export seg --case c0a1b2c3d4e5f6 --out one/ --json
    """
    open_catalogue(home)
    place = Home.resolve(home)
    wanted = Selection(Phase(phase), _labels(place, labels, number), round=number)
    manifest = write_segs(place, folder, wanted, cases)
    place.audit("export seg", str(folder), f"{manifest.frames} frames")
    if as_json:
        click.echo(manifest.model_dump_json(indent=1))
    else:
        click.echo(f"{folder}: {manifest.segments} segments of {manifest.frames} frames")
