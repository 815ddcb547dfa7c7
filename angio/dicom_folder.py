"""Import of a folder of DICOM files that nobody has annotated yet: angiograms, and echo clips.

Splits are by keyed hash of the patient. Knows nothing of the lab's CSV.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from angio.deident import keyed, pseudonym, remapped_uid, shift_days
from angio.dicom.identity import METHOD as METHOD_DEID
from angio.dicom.identity import instance_key, patient_key, strip
from angio.dicom.read import (
    Cine,
    OpenRun,
    cine_of,
    frames_of,
    modality_of,
    n_frames_of,
    open_dataset,
    subtractable_frames,
)
from angio.frames import METHOD, NO_INFLOW_NOTE, choose_frame
from angio.importing import FILE
from angio.intake import ImportReport, Incoming, Pictures, Progress, around, key_for, take_in
from angio.rendering import Look, render_frame, rendering_of, upright_frame
from angio.review import Desk
from casebook.cases import Case
from casebook.errors import DataError
from casebook.home import Home
from casebook.split import split_of

CHOSEN_NOTE = "frame chosen by what it shows; `casebook show` gives the score"
MIDDLE_NOTE = "ultrasound: the middle frame is taken"


@dataclass(frozen=True)
class DicomOptions:
    """What is made of every file of a folder."""

    frame: int | None = None
    """The frame to annotate, counted from 0; chosen by what it shows when not given."""
    neighbours: int = 1
    """Frames kept on each side of it."""
    subtract: bool = False
    """Take away the masks that files name themselves."""
    look: Look = "contrast"
    """How stored values become a picture."""


def import_dicom(
    folder: Path,
    home: Home,
    options: DicomOptions | None = None,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import every file under a folder as a case without annotations.

    Args:
        folder: Where the files lie, at any depth; or one file.
        home: The workspace.
        options: What is made of every file.
        dry_run: Check everything, write nothing.
        progress: Told how many files of how many are done.

    Raises:
        DataError: there is no file.
    """
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    if not files:
        raise DataError(f"{folder} has no files; give the folder of the DICOM export")
    key = key_for(home, dry_run=dry_run)
    chosen = options or DicomOptions()
    desk = Desk.open(home, dry_run=dry_run)

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for number, path in enumerate(files, start=1):
            yield f"file {number} of {len(files)}", partial(_read, path, key, chosen, desk)

    note = "splits by keyed hash of the patient; files are numbered in the order of their names"
    return take_in(
        home, "dicom", cases(), total=len(files), notes=[note], dry_run=dry_run, progress=progress
    )


@dataclass(frozen=True)
class _Picked:
    """A frame and how it came to be taken."""

    frame: int
    how: str
    notes: tuple[str, ...] = ()


def _pick(ds: OpenRun, n_frames: int, allowed: list[int], wanted: int | None) -> _Picked:
    """The frame to annotate.

    Raises:
        DataError: the frame asked for is not one of those that can be shown.
    """
    if wanted is not None:
        if wanted >= n_frames:
            raise DataError(f"has frames 0 to {n_frames - 1}; frame {wanted} was asked for")
        if wanted not in allowed:
            raise DataError(f"frame {wanted} has no mask to subtract; give another frame")
        return _Picked(wanted, "given")
    middle = allowed[len(allowed) // 2]
    if n_frames == 1:
        return _Picked(middle, "the only one")
    if modality_of(ds) == "US":
        return _Picked(middle, "the middle one", (MIDDLE_NOTE,))
    choice = choose_frame(frames_of(ds, FILE, allowed, upright=True), allowed)
    notes = (CHOSEN_NOTE,) if choice.inflow_seen else (CHOSEN_NOTE, NO_INFLOW_NOTE)
    return _Picked(choice.frame, f"chosen ({METHOD}): {choice}", notes)


def _read(path: Path, key: bytes, options: DicomOptions, desk: Desk) -> Incoming:
    ds = open_dataset(path, FILE)
    patient_id = patient_key(ds)
    if not patient_id:
        raise DataError("has neither patient id nor name; without one it cannot be split safely")
    n_frames = n_frames_of(ds, FILE)
    maskable = subtractable_frames(ds, FILE) if options.subtract else frozenset()
    allowed = sorted(maskable) or list(range(n_frames))
    shown = frozenset(allowed)
    picked = _pick(ds, n_frames, allowed, options.frame)
    chosen = picked.frame
    wanted = [each for each in around(chosen, n_frames, options.neighbours) if each in shown]
    cine = cine_of(ds, FILE, wanted, subtract=bool(maskable))
    person = pseudonym(key, patient_id)
    clean = strip(
        ds,
        pseudonym=person,
        remap_uid=partial(remapped_uid, key),
        shift_days=shift_days(key, patient_id),
    )
    pictures = Pictures(cine.spacing, desk, patient=person, source=path.name)
    for position, index in enumerate(cine.frames):
        stored = upright_frame(cine, position) if index == chosen else None
        picture = render_frame(cine, position, options.look)
        pictures.add(index, picture, cine.views[position], stored=stored)
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
        deid=pictures.record(METHOD_DEID, clean.kept, clean.removed),
        extra=_told(cine, picked, modality_of(ds), options.look),
    )
    notes = picked.notes
    if options.subtract and not maskable:
        notes = (*notes, "names no mask to subtract; rendered as it is")
    return Incoming(
        case,
        pictures.frames,
        pictures.stored,
        patient_id=patient_id,
        source_row=path.name,
        notes=notes,
    )


def _told(cine: Cine, picked: _Picked, modality: str, look: Look) -> dict[str, str]:
    """How the case's pictures came about, for `casebook show`."""
    told = {
        "frame_choice": picked.how,
        "modality": modality,
        "rendering": rendering_of(cine, look),
    }
    if cine.times_ms:
        told["frame_times_ms"] = " ".join(f"{time:g}" for time in cine.times_ms)
    return told
