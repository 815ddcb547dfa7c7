"""Import of the lab's CSV with its cines and contours.

Rows become pseudonymous cases; a row that cannot be used is reported and never stops the rest.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, UnidentifiedImageError

from angio.contours import Contours, read_contours
from angio.deident import key_of, keyed, pseudonym, remapped_uid, shift_days
from angio.dicom.identity import METHOD, strip
from angio.dicom.read import Cine, cine_of, open_dataset
from angio.intake import ImportProblem, ImportReport, Incoming, Pictures, Progress, around, take_in
from angio.lab_csv import CsvOptions, LabRow, parse_row, read_rows
from angio.rendering import render, upright
from angio.review import Desk
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import Case, PixelSpacing, Split, View
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.masks import encode
from casebook.split import split_of

ANGLES_AGREE_DEG = 5.0
FILE = "the DICOM file"
"""What messages call it: lab file names often carry the patient's number."""
DRY_KEY = bytes(32)
"""Key of a dry run in a workspace that has none: nothing made with it is kept."""


def import_csv(
    path: Path,
    home: Home,
    labels: LabelSet,
    options: CsvOptions | None = None,
    *,
    neighbours: int = 1,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a lab CSV.

    Args:
        path: The CSV; relative paths in it start from its folder.
        home: The workspace.
        labels: Names a segment may have.
        options: The CSV's conventions.
        neighbours: Unlabelled frames kept on each side of the annotated one.
        dry_run: Check everything, write nothing.
        progress: Told how many rows of how many are done.

    Raises:
        DataError: the CSV itself cannot be used; troubles of single rows are in the report.
    """
    options = options or CsvOptions()
    has_key = (home.private / "key").exists()
    key = DRY_KEY if dry_run and not has_key else key_of(home)
    rows: list[LabRow] = []
    problems: list[ImportProblem] = []
    for line, values in enumerate(read_rows(path), start=2):
        try:
            rows.append(parse_row(values, line, path.parent, labels, options))
        except DataError as problem:
            problems.append(ImportProblem(where=f"line {line}", message=str(problem)))
    rows, refused = _consistent(rows)
    problems += refused
    notes = _split_note(rows)
    splits = _splits(rows, key)
    desk = Desk.open(home, dry_run=dry_run)

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        seen: set[str] = set()
        for row in rows:
            split = splits[row.patient_id]
            reading = partial(_read_row, row, labels, key, split, neighbours, seen, desk)
            yield f"line {row.line}", reading

    return take_in(
        home, "csv", cases(), total=len(rows), notes=notes, problems=problems,
        dry_run=dry_run, progress=progress,
    )  # fmt: skip


def _consistent(rows: list[LabRow]) -> tuple[list[LabRow], list[ImportProblem]]:
    """Rows of patients who are in one split only; the rest is refused."""
    found: dict[str, set[Split]] = {}
    for row in rows:
        if row.split is not None:
            found.setdefault(row.patient_id, set()).add(row.split)
    torn = {patient for patient, splits in found.items() if len(splits) > 1}
    problems = [
        ImportProblem(
            where=f"line {row.line}",
            message="its patient is in two splits; give all rows of a patient the same split",
        )
        for row in rows
        if row.patient_id in torn
    ]
    return [row for row in rows if row.patient_id not in torn], problems


def _splits(rows: list[LabRow], key: bytes) -> dict[str, Split]:
    """The split of every patient: the given one, else by keyed hash."""
    given = {row.patient_id: row.split for row in rows if row.split is not None}
    return {
        row.patient_id: given.get(row.patient_id) or split_of(pseudonym(key, row.patient_id), key)
        for row in rows
    }


def _split_note(rows: list[LabRow]) -> list[str]:
    without = sum(row.split is None for row in rows)
    return [f"{without} rows give no split; their patients were split by keyed hash"] * bool(
        without
    )


def _case_id(row: LabRow, key: bytes) -> str:
    source = row.dicom or row.cine
    own = row.row if not row.row.startswith("line ") else ""
    parts = own or f"{source.name if source else ''}|{row.frame}|{row.segment}|{row.phase}"
    return f"c{keyed(key, 'case', f'{row.patient_id}|{parts}').hex()[:14]}"


def _read_row(
    row: LabRow,
    labels: LabelSet,
    key: bytes,
    split: Split,
    neighbours: int,
    seen: set[str],
    desk: Desk,
) -> Incoming:
    case_id = _case_id(row, key)
    if case_id in seen:
        raise DataError("repeats an earlier row (same run, frame and segment); remove one")
    seen.add(case_id)
    contours = read_contours(row.contours) if row.contours else None
    cine, tags = _cine(row, key, neighbours)
    own = cine.views[cine.frames.index(row.frame)]
    spacing = (contours.spacing if contours else None) or cine.spacing
    view = own or row.view or (contours.view if contours else None)
    person = pseudonym(key, row.patient_id)
    pictures = Pictures(spacing, desk, patient=person, source=row.row)
    for position, frame in enumerate(cine.frames):
        flat = upright(
            cine.pixels[position], inverted=cine.photometric == "MONOCHROME1", bits=cine.bits
        )
        pictures.add(
            frame,
            render(flat),
            cine.views[position] or view,
            stored=flat if frame == row.frame else None,
        )
    height, width = cine.hw
    case = Case(
        case_id=case_id,
        patient=person,
        split=split,
        source="csv",
        frame=row.frame,
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
        image_sha256=pictures.sha256(row.frame),
        deid=pictures.record(*tags),
        extra=row.extra,
    )
    return Incoming(
        case=case,
        frames=pictures.frames,
        stored=pictures.stored,
        annotations=_annotations(row, case, labels, contours),
        patient_id=row.patient_id,
        source_row=row.row,
        notes=tuple(_remarks(row, own, contours)),
    )


def _cine(
    row: LabRow, key: bytes, neighbours: int
) -> tuple[Cine, tuple[str, tuple[str, ...], int]]:
    """The wanted frames, and what was done with their tags: method, kept, number removed."""
    if row.dicom is not None:
        ds = open_dataset(row.dicom, FILE)
        try:
            n_frames = int(ds.get("NumberOfFrames") or 1)
        except (TypeError, ValueError):
            n_frames = 1
        wanted = around(row.frame, n_frames, neighbours) or (row.frame,)
        cine = cine_of(ds, FILE, wanted)
        clean = strip(
            ds,
            pseudonym=pseudonym(key, row.patient_id),
            remap_uid=partial(remapped_uid, key),
            shift_days=shift_days(key, row.patient_id),
        )
        return cine, (METHOD, clean.kept, clean.removed)
    if row.cine is None:
        raise DataError("neither dicom_path nor cine_path is given")
    return _array_cine(row.cine, row, neighbours), ("array file without header", (), 0)


def _array_cine(path: Path, row: LabRow, neighbours: int) -> Cine:
    """Frames of an NPY file: frames × height × width, 0..1 or 8 bits."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"cine {path.suffix} file is not there; correct cine_path") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"cine cannot be read ({type(problem).__name__}); save it again") from None
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[0] <= row.frame:
        raise DataError(f"cine has shape {array.shape}; frame {row.frame} was asked for")
    wanted = around(row.frame, array.shape[0], neighbours)
    frames = np.asarray(array[list(wanted)])
    if np.issubdtype(frames.dtype, np.floating):
        if not np.isfinite(frames).all() or frames.min() < 0 or frames.max() > 1:
            raise DataError("cine has values outside 0..1; save it as 0..1 or 8 bits")
        stored, bits = np.rint(frames * 65535).astype(np.uint16), 16
    elif frames.dtype == np.uint8:
        stored, bits = frames.astype(np.uint16), 8
    else:
        raise DataError(f"cine has type {frames.dtype}; save it as 0..1 or 8 bits")
    views: tuple[View | None, ...] = (row.view,) * len(wanted)
    return Cine(stored, wanted, int(array.shape[0]), bits, "MONOCHROME2", None, None, views, None)


def _remarks(row: LabRow, header: View | None, contours: Contours | None) -> Iterator[str]:
    """Disagreements between the CSV and the files it names."""
    if row.view is not None and header is not None:
        apart = abs(row.view.primary_deg - header.primary_deg)
        if apart > ANGLES_AGREE_DEG:
            opposite = abs(row.view.primary_deg + header.primary_deg) <= ANGLES_AGREE_DEG
            yield (
                "primary angle has the opposite sign in the CSV and in the file; the file's is "
                "kept; see --angles"
                if opposite
                else "primary angle differs between the CSV and the file; the file's is kept"
            )
        if abs(row.view.secondary_deg - header.secondary_deg) > ANGLES_AGREE_DEG:
            yield "secondary angle differs between the CSV and the file; the file's is kept"
    if contours is not None and contours.frame is not None and contours.frame != row.frame:
        yield "contours name another frame than the CSV; the CSV's is kept"
    if row.segment is None:
        yield "segment is not one of the labels; the case has none"


def read_mask(path: Path, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"]:
    """A mask file, PNG or NPY, at the size of the image (nearest neighbour).

    Raises:
        DataError: missing, unreadable, not two-dimensional or of another shape of picture.
    """
    try:
        values = (
            np.load(path, allow_pickle=False)
            if path.suffix.casefold() == ".npy"
            else np.asarray(Image.open(path).convert("L"))
        )
    except FileNotFoundError:
        raise DataError(f"mask {path.suffix} file is not there; correct its path") from None
    except (OSError, ValueError, UnidentifiedImageError) as problem:
        raise DataError(f"mask cannot be read ({type(problem).__name__}); save it again") from None
    if values.ndim != 2 or values.shape[0] * hw[1] != values.shape[1] * hw[0]:
        raise DataError(f"mask has shape {values.shape}; expected that of the image, {hw}")
    bitmap: UInt8[np.ndarray, "h w"] = (np.asarray(values) > 0).astype(np.uint8)
    if bitmap.shape != hw:
        bitmap = np.asarray(
            Image.fromarray(bitmap).resize((hw[1], hw[0]), Image.Resampling.NEAREST)
        )
    return bitmap.astype(bool)


def _annotations(
    row: LabRow, case: Case, labels: LabelSet, contours: Contours | None
) -> AnnotationSet | None:
    """The expert's masks that came with a row; nothing when it brings none."""
    hw = (case.height_px, case.width_px)
    if contours is None and row.mask is None:
        return None
    segment = contours.bitmap(hw) if contours else read_mask(row.mask, hw) if row.mask else None
    if segment is None or not segment.any():
        raise DataError("the mask of the segment is empty; correct it")
    if row.segment is None:
        raise DataError(
            "annotated, but its segment is not one of the labels; correct cass_segment or "
            "vessel_pattern"
        )
    builder = AnnotationSetBuilder(labels, {"source": "csv"})
    image = builder.add_image(case.ref, hw, status="ok")
    builder.add_mask(
        image, row.segment, encode(segment), Origin.HUMAN, attributes=_measured(row, contours)
    )
    trees = labels.of_role("tree")
    if row.tree is not None and trees:
        tree = read_mask(row.tree, hw)
        if tree.any():
            builder.add_mask(image, trees[0].name, encode(tree), Origin.PSEUDO)
    return builder.build()


def _measured(row: LabRow, contours: Contours | None) -> dict[str, str]:
    given = {
        name.casefold(): f"{value:g}"
        for name, value in (contours.measurements if contours else {}).items()
        if "coord" not in name and "index" not in name
    }
    return {**given, **row.measurements}


def spacing_text(spacing: PixelSpacing | None) -> str:
    """A spacing for people: `0.250 mm (isocentre)`, or `px` when there is none."""
    return f"{spacing.mean_mm:.3f} mm ({spacing.source})" if spacing else "px"
