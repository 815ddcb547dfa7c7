"""NIfTI volumes as cases, a slice a case; and masks of slices put together as a NIfTI volume.

The window makes the picture, the affine gives the spacing, and a label volume beside it the masks.
Source of the window: DICOM PS3.3 C.11.2.1.2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8

from angio.deident import keyed
from angio.drawings import Drawings
from angio.image_folder import codes_of
from angio.intake import ImportReport, Incoming, Pictures, Progress, key_for, take_in
from angio.plain_cases import Drawn, annotations_of
from angio.review import Desk
from angio.roster import Owner, Roster, read_roster
from angio.volumes import Plane, Volume, VolumeRecord, open_volume
from casebook.cases import Case, FrameRef, Split
from casebook.documents import Document, read_document, write_bytes, write_document
from casebook.errors import AngioloopError, ConfigError, DataError, StateError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.masks import decode

VOLUME = "the volume"
LABELS = "the label volume"
METHOD = "volume without header: the pixels of one slice, no text of the source is kept"
AFFINES_AGREE_MM = 1e-3
UNITS = "a volume does not state the unit of its spacing: its slices have px; see --assume-mm"


class NiftiOptions(Document):
    """How volumes become pictures."""

    plane: Plane = "axial"
    window: tuple[float, float] = (40.0, 400.0)
    """Centre and width of what is shown, in the volume's values (HU for CT)."""
    every: int = 1
    """Every how many slices one is taken."""
    assume_mm: bool = False
    """Take spacing without a unit for millimetres."""
    ruled_clean: bool = False
    """A person has looked: no slice carries text."""


@dataclass(frozen=True)
class _Reading:
    """What every slice of a volume is read with."""

    labels: LabelSet
    options: NiftiOptions
    desk: Desk
    owner: Owner
    name: str
    volume: Volume
    record: VolumeRecord
    drawn: Volume | None


def records_folder(home: Home) -> Path:
    """Where the geometry of imported volumes lies."""
    return home.cases / "volumes"


def shown(
    values: Float64[np.ndarray, "h w"], window: tuple[float, float]
) -> UInt8[np.ndarray, "h w"]:
    """Values through a window, in 8 bits."""
    centre, width = window
    scaled = (values - (centre - width / 2)) * (255.0 / width)
    return np.asarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def import_nifti(
    path: Path,
    home: Home,
    labels: LabelSet,
    options: NiftiOptions | None = None,
    *,
    masks: Path | None = None,
    split: Split | None = None,
    patients: Path | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import NIfTI volumes, every slice as a case of the volume's patient.

    Args:
        path: A volume, or a folder of them.
        home: The workspace.
        labels: What may be drawn; a label's code is its number in a label volume.
        options: Plane, window and the like.
        masks: A label volume, or a folder with one of the same name for some volumes.
        split: The split of all volumes; else by patient or volume.
        patients: A table of patients (angio/roster.py).
        dry_run: Check everything, write nothing.
        progress: Told how many volumes of how many are done.

    Raises:
        DataError: there is no volume.
        ConfigError: a window without width, or no slices.
    """
    options = options or NiftiOptions()
    if not (options.window[1] > 0 and options.every >= 1):
        raise ConfigError("the window needs a width above 0, and --every a number from 1")
    files = [path] if path.is_file() else sorted([*path.glob("*.nii"), *path.glob("*.nii.gz")])
    if not files:
        raise DataError(f"{path} has no .nii or .nii.gz; give a volume or their folder")
    codes_of(labels)
    roster = read_roster(patients, key_for(home, dry_run=dry_run), split)
    desk = Desk.open(home, dry_run=dry_run)
    notes = [roster.note.replace("picture", "volume")]
    unstated: set[str] = set()

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for number, file in enumerate(files, start=1):
            where = f"volume {number} of {len(files)}"
            try:
                yield from _slices(
                    file, where, masks, home, labels, options, roster, desk, unstated
                )
            except AngioloopError as problem:
                message = str(problem)

                def refuse(message: str = message) -> Incoming:
                    raise DataError(message)

                yield where, refuse
            if progress is not None:
                progress(number, len(files))

    report = take_in(home, "nifti", cases(), total=0, notes=notes, dry_run=dry_run)
    return report.with_(notes=(*report.notes, UNITS)) if unstated else report


def _slices(
    file: Path,
    where: str,
    masks: Path | None,
    home: Home,
    labels: LabelSet,
    options: NiftiOptions,
    roster: Roster,
    desk: Desk,
    unstated: set[str],
) -> Iterator[tuple[str, Callable[[], Incoming]]]:
    with open_volume(file, VOLUME) as volume:
        identity = f"{file.name}|{volume.sha256}|{options.plane}"
        owner = roster.owner(file.name, f"nifti|{identity}")
        volume_id = f"n{keyed(roster.key, 'volume', identity).hex()[:14]}"
        record = volume.record(volume_id, options.plane)
        if volume.spacing(record, assume_mm=options.assume_mm) is None:
            unstated.add(volume_id)
        beside = _beside(file, masks)
        if not desk.dry_run:
            write_document(records_folder(home) / f"{volume_id}.json", record)
        indices = range(0, record.n_slices, options.every)
        if beside is None:
            reading = _Reading(labels, options, desk, owner, file.name, volume, record, None)
            for index in indices:
                yield f"{where}, slice {index}", partial(_read, reading, index)
            return
        with open_volume(beside, LABELS) as drawn:
            _check_grid(volume, drawn)
            reading = _Reading(labels, options, desk, owner, file.name, volume, record, drawn)
            for index in indices:
                yield f"{where}, slice {index}", partial(_read, reading, index)


def _beside(file: Path, masks: Path | None) -> Path | None:
    """The label volume of a volume: of the same name, or without nnU-Net's channel number."""
    if masks is None or masks.is_file():
        return masks
    if not masks.is_dir():
        raise DataError("the label volumes are not there; give a file or a folder")
    stem = file.name.removesuffix(".gz").removesuffix(".nii")
    for name in (stem, stem.removesuffix("_0000")):
        for suffix in (".nii.gz", ".nii"):
            if (masks / f"{name}{suffix}").is_file():
                return masks / f"{name}{suffix}"
    return None


def _check_grid(volume: Volume, drawn: Volume) -> None:
    apart = np.abs(volume.affine - drawn.affine).max()
    if volume.raw.shape != drawn.raw.shape or apart > AFFINES_AGREE_MM:
        raise DataError(
            f"{LABELS} has shape {drawn.raw.shape}, its affine is {apart:.3g} mm off; expected the "
            f"grid of its volume, {volume.raw.shape}; resample it"
        )


def _read(reading: _Reading, index: int) -> Incoming:
    record, owner = reading.record, reading.owner
    spacing = reading.volume.spacing(record, assume_mm=reading.options.assume_mm)
    pictures = Pictures(spacing, reading.desk, patient=owner.pseudonym, source=reading.name)
    pixels = shown(reading.volume.values(record, index), reading.options.window)
    pictures.add(index, pixels, None, ruled_clean=reading.options.ruled_clean)
    case = Case(
        case_id=f"{record.volume_id}s{index:05d}",
        patient=owner.pseudonym,
        split=owner.split,
        source="nifti",
        frame=index,
        n_frames=record.n_slices,
        stored_frames=(index,),
        height_px=record.hw[0],
        width_px=record.hw[1],
        spacing=spacing,
        image_sha256=pictures.sha256(index),
        deid=pictures.record(METHOD),
        extra={"volume": record.volume_id, "plane": record.plane, "slice": str(index)},
    )
    drawn = tuple(_drawn(reading, index))
    return Incoming(
        case,
        pictures.frames,
        pictures.stored,
        annotations=annotations_of(case, drawn, reading.labels),
        patient_id=owner.patient_id,
        source_row=reading.name,
    )


def _drawn(reading: _Reading, index: int) -> Iterator[Drawn]:
    if reading.drawn is None:
        return
    values = reading.drawn.values(reading.record, index)
    codes = codes_of(reading.labels)
    found = np.unique(values)
    unknown = [float(value) for value in found if value != 0 and value not in codes]
    if unknown:
        raise DataError(
            f"{LABELS} has values {unknown[:5]}, which are codes of no label of "
            f"{reading.labels.name!r}; correct it or the label file"
        )
    for value in found:
        if value:
            yield Drawn(codes[int(value)], np.asarray(values == value))


class Assembled(Document):
    """A volume of masks that was written."""

    volume_id: str
    file: str
    n_slices: int
    drawn: int
    """Slices with masks."""
    overlaps_px: int
    """Pixels that two labels claimed; the one with the higher number has them."""


def read_record(home: Home, volume_id: str) -> VolumeRecord:
    """The geometry of an imported volume.

    Raises:
        StateError: no volume of this id was imported.
    """
    if not volume_id.isalnum():
        raise DataError(f"{volume_id!r} is no volume id; `casebook list` shows them before the s")
    return read_document(records_folder(home) / f"{volume_id}.json", VolumeRecord)


def write_masks(
    home: Home,
    volume_id: str,
    labels: LabelSet,
    drawings: Drawings,
    out: Path,
) -> Assembled:
    """Write the masks of a volume's slices as one NIfTI file on the volume's own grid.

    Args:
        home: The workspace.
        volume_id: Which volume.
        labels: Gives each label its number.
        drawings: What is drawn on a slice.
        out: The folder; the file is named after the volume's id.

    Raises:
        StateError: no such volume, or none of its slices has masks.
        DataError: a mask is of another size, or a label is not in the label file.
    """
    record = read_record(home, volume_id)
    number = {name: code for code, name in codes_of(labels).items()}
    values = np.zeros(record.shape, dtype=np.uint8 if max(number.values()) < 256 else np.uint16)
    drawn = overlaps = 0
    for index in range(record.n_slices):
        case_id = f"{volume_id}s{index:05d}"
        found = drawings(FrameRef(case_id=case_id, frame=index))
        if not found:
            continue
        view = record.upright(values, index)
        coded = [(number[labels.find(name).name], mask) for name, mask in found]
        for code, mask in sorted(coded, key=lambda pair: pair[0]):
            if mask.hw != record.hw:
                raise DataError(f"case {case_id}: a mask is {mask.hw} px; its slice is {record.hw}")
            bitmap = decode(mask)
            overlaps += int(((view != 0) & (view != code) & bitmap).sum())
            view[bitmap] = code
        drawn += 1
    if not drawn:
        raise StateError(f"volume {volume_id} has no slice with masks; import or pull some first")
    file = out / f"{volume_id}.nii.gz"
    write_bytes(file, record.assembled(values))
    return Assembled(
        volume_id=volume_id, file=str(file), n_slices=record.n_slices, drawn=drawn,
        overlaps_px=overlaps,
    )  # fmt: skip
