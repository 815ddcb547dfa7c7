"""Import of the lab's CSV with its cines and contours.

Rows become pseudonymous cases; a row that cannot be used is reported and never stops the rest. The
CSV is read twice, a row at a time: once for the splits of the patients, once for the cases.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from angio.array_cines import CINE, ArrayCine
from angio.contours import Contours, read_contours
from angio.csv_files import CsvFile, open_csv
from angio.deident import keyed, pseudonym, remapped_uid, shift_days
from angio.dicom.identity import METHOD, names_somebody, naming_words, strip
from angio.dicom.read import Cine, cine_of, frames_of, n_frames_of, open_dataset
from angio.frames import METHOD as FRAME_METHOD
from angio.frames import NO_INFLOW_NOTE, FrameChoice, choose_frame
from angio.intake import (
    READERS,
    ImportReport,
    Incoming,
    Pictures,
    Progress,
    around,
    key_for,
    take_in,
)
from angio.lab_csv import CsvOptions, LabRow, parse_row
from angio.lab_masks import drawn_of, pseudo_of
from angio.ledger import Ledger
from angio.rendering import render_frame, upright
from angio.review import Desk
from angio.source_files import size_of
from casebook.cases import Case, PixelSpacing, Split, View
from casebook.catalogue import Catalogue
from casebook.errors import AngioloopError, DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.split import split_of

ANGLES_AGREE_DEG = 5.0
FILE = "the DICOM file"
"""What messages call it: lab file names often carry the patient's number."""


@dataclass(frozen=True)
class _Table:
    """A CSV with what goes for all of its rows."""

    csv: CsvFile
    where: str
    """What messages call a line of it."""
    split: Split | None
    """The split of every row, where the table itself is one."""


@dataclass(frozen=True)
class _Reading:
    """What every row is read with."""

    labels: LabelSet
    options: CsvOptions
    key: bytes
    neighbours: int
    ledger: Ledger
    desk: Desk

    def row(self, table: _Table, line: int, cells: tuple[str, ...]) -> LabRow:
        """A row, with its table's split.

        Raises:
            DataError: the row cannot be used, or gives another split than its table.
        """
        root = table.csv.path.parent
        row = parse_row(table.csv.values(cells), line, root, self.labels, self.options)
        if table.split is not None and row.split not in {None, table.split}:
            raise DataError(
                f"split is {row.split!s} in the validation CSV; expected {table.split}; "
                "move the row"
            )
        return row


def import_csv(
    path: Path,
    home: Home,
    labels: LabelSet,
    options: CsvOptions | None = None,
    *,
    validation: Path | None = None,
    neighbours: int = 1,
    new_only: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a lab CSV.

    Args:
        path: The CSV; relative paths in it start from its folder.
        home: The workspace.
        labels: Names a segment may have.
        options: The CSV's conventions.
        validation: Another CSV whose rows are all for validation.
        neighbours: Unlabelled frames kept on each side of the annotated one.
        new_only: Do not read rows again whose case is in the catalogue.
        dry_run: Check everything, write nothing.
        progress: Told how many rows of how many are done.

    Raises:
        DataError: a CSV itself cannot be used; troubles of single rows are in the report.
    """
    tables = [_Table(open_csv(path, "patient_id"), "line", None)]
    if validation is not None:
        table = _Table(open_csv(validation, "patient_id"), "validation line", Split.VAL)
        tables.append(table)
    with Ledger() as ledger:
        reading = _Reading(
            labels, options or CsvOptions(), key_for(home, dry_run=dry_run), neighbours, ledger,
            Desk.open(home, dry_run=dry_run),
        )  # fmt: skip
        total = without = 0
        for table in tables:
            for line, cells in table.csv.rows():
                total += 1
                with suppress(DataError):  # reported when the cases are read
                    row = reading.row(table, line, cells)
                    split = row.split or table.split
                    ledger.note_patient(row.patient_id, split)
                    without += split is None
        notes = [f"{without} rows give no split; {_SPLIT_NOTE}"] * bool(without)

        known = Catalogue(home) if new_only and home.catalogue.exists() else None

        def cases() -> Iterator[tuple[str, Callable[[], Incoming | None]]]:
            for table in tables:
                for line, cells in table.csv.rows():
                    yield f"{table.where} {line}", _begun(reading, table, line, cells, known)

        return take_in(
            home, "csv", cases(), total=total, notes=notes, dry_run=dry_run, progress=progress,
            readers=READERS,
        )  # fmt: skip


_SPLIT_NOTE = "patients without one in any row were split by keyed hash"


def _begun(
    reading: _Reading,
    table: _Table,
    line: int,
    cells: tuple[str, ...],
    known: Catalogue | None,
) -> Callable[[], Incoming | None]:
    """What needs the ledger, done in the order of the rows; what may wait, as a function."""
    try:
        row, case_id, split, person = _placed(reading, table, line, cells)
    except AngioloopError as problem:
        return partial(_refused, problem)
    if known is not None and known.has(case_id):
        return lambda: None
    return partial(_read_row, row, case_id, split, person, reading)


def _refused(problem: AngioloopError) -> Incoming:
    raise problem


def _placed(
    reading: _Reading, table: _Table, line: int, cells: tuple[str, ...]
) -> tuple[LabRow, str, Split, str]:
    """A row, its case's id and split, and its patient's pseudonym."""
    row = reading.row(table, line, cells)
    ledger = reading.ledger
    if not ledger.knows(row.patient_id):
        raise DataError("was not there a moment ago; the CSV changed while it was read; run again")
    if ledger.is_torn(row.patient_id):
        raise DataError("its patient is in two splits; give all rows of a patient the same split")
    person = pseudonym(reading.key, row.patient_id)
    split = ledger.split_of(row.patient_id) or split_of(person, reading.key)
    case_id = _case_id(row, reading.key)
    if not ledger.is_new(case_id):
        raise DataError(
            "repeats an earlier row (same file name, frame, segment and phase); remove one, or "
            "tell them apart by a row_id column"
        )
    return row, case_id, split, person


def _case_id(row: LabRow, key: bytes) -> str:
    source = row.dicom or row.cine
    own = row.row if not row.row.startswith("line ") else ""
    name, frame = source.name if source else "", row.frame or 0
    parts = own or f"{name}|{frame}|{row.segment}|{row.phase}"
    return f"c{keyed(key, 'case', f'{row.patient_id}|{parts}').hex()[:14]}"


def _read_row(row: LabRow, case_id: str, split: Split, person: str, reading: _Reading) -> Incoming:
    contours = read_contours(row.contours) if row.contours else None
    named = row.frame if row.frame is not None else contours.frame if contours else None
    run = _cine(row, named, person, reading)
    cine, frame = run.cine, run.frame
    row, told = _unnamed(row, run.names)
    own = cine.views[cine.frames.index(frame)]
    spacing = (contours.spacing if contours else None) or cine.spacing
    view = own or row.view or (contours.view if contours else None)
    pictures = Pictures(spacing, reading.desk, patient=person, source=row.row)
    for position, index in enumerate(cine.frames):
        flat = upright(
            cine.pixels[position], inverted=cine.photometric == "MONOCHROME1", bits=cine.bits
        )
        pictures.add(
            index,
            render_frame(cine, position),
            cine.views[position] or view,
            stored=flat if index == frame else None,
        )
    height, width = cine.hw
    case = Case(
        case_id=case_id,
        patient=person,
        split=split,
        source="csv",
        frame=frame,
        n_frames=cine.n_frames,
        stored_frames=cine.frames,
        height_px=height,
        width_px=width,
        spacing=spacing,
        view=view,
        vessel=row.vessel,
        segment=row.segment,
        phase=row.phase,
        round=row.round,
        lesion_box_xyxy=row.lesion_box_xyxy,
        image_sha256=pictures.sha256(frame),
        deid=pictures.record(*run.tags),
        extra=row.extra if run.choice is None else {**row.extra, "frame_choice": _how(run.choice)},
    )
    drawn, defects = drawn_of(row, case, reading.labels, contours)
    pseudo = None
    if drawn is None:
        pseudo, defects = pseudo_of(row, case, reading.labels)
    remarks = [*_remarks(row, own, contours, frame), *row.remarks, *told]
    if run.choice is not None:
        remarks += [UNNAMED_FRAME] if run.choice.inflow_seen else [UNNAMED_FRAME, NO_INFLOW_NOTE]
    return Incoming(
        case=case,
        frames=pictures.frames,
        stored=pictures.stored,
        annotations=drawn,
        pseudo=pseudo,
        patient_id=row.patient_id,
        source_row=row.row,
        notes=tuple(remarks),
        defects=defects,
    )


UNNAMED_FRAME = (
    "no frame_index and no frame in the contours; the frame that shows most was taken (`casebook "
    "show` gives its score)"
)


def _how(choice: FrameChoice) -> str:
    return f"chosen ({FRAME_METHOD}): {choice}"


@dataclass(frozen=True)
class _Run:
    """The frames read of a run, and how they came about."""

    cine: Cine
    frame: int
    """The annotated one."""
    tags: tuple[str, tuple[str, ...], int]
    """What was done with the header: method, tags kept, number removed."""
    choice: FrameChoice | None = None
    """Given when nobody named the frame."""
    names: frozenset[str] = frozenset()
    """Words of the header that tell who somebody is."""


def _cine(row: LabRow, named: int | None, person: str, reading: _Reading) -> _Run:
    """The wanted frames and which of them is annotated; the fullest one where nobody named one."""
    if row.dicom is None:
        if row.cine is None:
            raise DataError("neither dicom_path nor cine_path is given; one is needed")
        array = ArrayCine(row.cine)
        frame, choice = _frame(named, array.n_frames, array)
        if frame >= array.n_frames:
            raise DataError(
                f"{CINE} has {array.n_frames} frames; frame {frame} was asked for; correct "
                "frame_index"
            )
        cine = array.read(around(frame, array.n_frames, reading.neighbours), row.view)
        return _Run(cine, frame, ("array file without header", (), 0), choice)
    size_of(row.dicom, FILE)
    ds = open_dataset(row.dicom, FILE)
    n_frames = n_frames_of(ds, FILE)
    frame, choice = _frame(named, n_frames, frames_of(ds, FILE, upright=True))
    wanted = around(frame, n_frames, reading.neighbours) or (frame,)
    cine = cine_of(ds, FILE, wanted)
    names = naming_words(ds)
    clean = strip(
        ds,
        pseudonym=person,
        remap_uid=partial(remapped_uid, reading.key),
        shift_days=shift_days(reading.key, row.patient_id),
    )
    return _Run(cine, frame, (METHOD, clean.kept, clean.removed), choice, names)


def _unnamed(row: LabRow, names: frozenset[str]) -> tuple[LabRow, list[str]]:
    """The row without the free text that repeats words of the header telling who somebody is."""
    telling = sorted(name for name, text in row.extra.items() if names_somebody(text, names))
    kept = {name: text for name, text in row.extra.items() if name not in telling}
    vessel, phase = row.vessel, row.phase
    if vessel is not None and names_somebody(vessel, names):
        vessel, telling = None, [*telling, "vessel_name"]
    if phase is not None and names_somebody(phase, names):
        phase, telling = None, [*telling, "phase"]
    told = [f"column {name} repeats a name or number of the header; left out" for name in telling]
    return replace(row, extra=kept, vessel=vessel, phase=phase), told


def _frame(
    named: int | None, n_frames: int, frames: Iterable[UInt16[np.ndarray, "h w"]]
) -> tuple[int, FrameChoice | None]:
    """The frame somebody named, else the only one, else the one that shows most."""
    if named is not None:
        return named, None
    if n_frames == 1:
        return 0, None
    choice = choose_frame(frames)
    return choice.frame, choice


def _remarks(
    row: LabRow, header: View | None, contours: Contours | None, frame: int
) -> Iterator[str]:
    """Disagreements between the CSV and the files it names."""
    for view, owner in ((row.view, "CSV"), (contours.view if contours else None, "contours")):
        if view is None or header is None:
            continue
        if abs(view.primary_deg - header.primary_deg) > ANGLES_AGREE_DEG:
            opposite = abs(view.primary_deg + header.primary_deg) <= ANGLES_AGREE_DEG
            yield (
                f"primary angle has the opposite sign in the {owner} and in the file; the file's "
                "is kept; see --angles"
                if opposite
                else f"primary angle differs between the {owner} and the file; the file's is kept"
            )
        if abs(view.secondary_deg - header.secondary_deg) > ANGLES_AGREE_DEG:
            yield f"secondary angle differs between the {owner} and the file; the file's is kept"
    if contours is not None and contours.frame is not None and contours.frame != frame:
        yield "contours name another frame than the CSV; the CSV's is kept"
    if row.segment is None:
        yield "segment is not one of the labels; the case has none"


def spacing_text(spacing: PixelSpacing | None) -> str:
    """A spacing for people: `0.250 mm (isocentre)`, or `px` when there is none."""
    return f"{spacing.mean_mm:.3f} mm ({spacing.source})" if spacing else "px"
