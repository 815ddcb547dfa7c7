"""Import of a folder of DICOM angiograms that nobody has annotated yet.

Splits are by keyed hash of the patient. Knows nothing of the lab's CSV.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from angio.deident import (
    keyed,
    pseudonym,
    remapped_uid,
    shift_days,
)
from angio.dicom.identity import METHOD, instance_key, patient_key, strip
from angio.dicom.read import cine_of, open_dataset
from angio.importing import FILE
from angio.intake import ImportReport, Incoming, Pictures, Progress, around, key_for, take_in
from angio.rendering import render, upright
from angio.review import Desk
from casebook.cases import Case
from casebook.errors import DataError
from casebook.home import Home
from casebook.split import split_of


def import_dicom(
    folder: Path,
    home: Home,
    *,
    frame: int | None = None,
    neighbours: int = 1,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import every file under a folder as a case without annotations.

    Args:
        folder: Where the files lie, at any depth; or one file.
        home: The workspace.
        frame: The frame to annotate, counted from 0; the middle one when not given.
        neighbours: Frames kept on each side of it.
        dry_run: Check everything, write nothing.
        progress: Told how many files of how many are done.

    Raises:
        DataError: there is no file.
    """
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise DataError(f"{folder} has no files; give the folder of the DICOM export")
    key = key_for(home, dry_run=dry_run)

    desk = Desk.open(home, dry_run=dry_run)

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for number, path in enumerate(files, start=1):
            yield (
                f"file {number} of {len(files)}",
                partial(_read, path, key, frame, neighbours, desk),
            )

    note = "splits by keyed hash of the patient; files are numbered in the order of their names"
    return take_in(
        home, "dicom", cases(), total=len(files), notes=[note], dry_run=dry_run, progress=progress
    )


def _read(path: Path, key: bytes, frame: int | None, neighbours: int, desk: Desk) -> Incoming:
    ds = open_dataset(path, FILE)
    patient_id = patient_key(ds)
    if not patient_id:
        raise DataError("has neither patient id nor name; without one it cannot be split safely")
    try:
        n_frames = int(ds.get("NumberOfFrames") or 1)
    except (TypeError, ValueError):
        raise DataError("has a damaged number of frames; export it again") from None
    chosen = n_frames // 2 if frame is None else frame
    cine = cine_of(ds, FILE, around(chosen, n_frames, neighbours) or (chosen,))
    if chosen not in cine.frames:
        raise DataError(f"has frames 0 to {n_frames - 1}; frame {chosen} was asked for")
    clean = strip(
        ds,
        pseudonym=pseudonym(key, patient_id),
        remap_uid=partial(remapped_uid, key),
        shift_days=shift_days(key, patient_id),
    )
    person = pseudonym(key, patient_id)
    pictures = Pictures(cine.spacing, desk, patient=person, source=path.name)
    for position, index in enumerate(cine.frames):
        flat = upright(
            cine.pixels[position], inverted=cine.photometric == "MONOCHROME1", bits=cine.bits
        )
        stored = flat if index == chosen else None
        pictures.add(index, render(flat), cine.views[position], stored=stored)
    identity = instance_key(ds) or path.name
    case = Case(
        case_id=f"d{keyed(key, 'case', f'{patient_id}|{identity}|{chosen}').hex()[:14]}",
        patient=person,
        split=split_of(person, key),
        source="dicom",
        frame=chosen,
        n_frames=n_frames,
        stored_frames=cine.frames,
        height_px=cine.hw[0],
        width_px=cine.hw[1],
        spacing=cine.spacing,
        view=cine.views[cine.frames.index(chosen)],
        image_sha256=pictures.sha256(chosen),
        deid=pictures.record(METHOD, clean.kept, clean.removed),
    )
    return Incoming(
        case, pictures.frames, pictures.stored, patient_id=patient_id, source_row=path.name
    )
