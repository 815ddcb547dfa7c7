"""One row of the lab's CSV: an analysed segment, names in any spelling.

Knows nothing of pixels; a row that cannot be used raises, and the import goes on with the next.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from angio.contours import AngleSign, angle_deg
from casebook.cases import Split, View
from casebook.documents import Document
from casebook.errors import DataError
from casebook.labels import LabelSet

_ALIASES = {
    "contours_path": ("contours_path", "medis_contour_path"),
    "mask_path": ("medis_mask_path", "vessel_mask_actual_path"),
    "tree_path": ("deepsa_pseudo_label_path",),
}
_KNOWN = frozenset(
    {
        "row_id", "patient_id", "vessel_pattern", "vessel_name", "phase", "frame_index",
        "cass_segment", "cass_segment_original", "primary_angle", "secondary_angle", "dicom_path",
        "cine_path", "mld_mm", "diameter_stenosis_pct", "lesion_length_mm", "lesion_box", "split",
        "round", *(name for names in _ALIASES.values() for name in names),
    }
)  # fmt: skip
_IDENTITY = re.compile(
    r"name|birth|dob|\bid\b|_id$|^id_|mrn|ssn|address|phone|date|path|physician", re.I
)
_MEASURES = {"mld_mm": 20.0, "diameter_stenosis_pct": 100.0, "lesion_length_mm": 500.0}
"""Measurements with the largest value a coronary artery can have."""
_PHASES = ("INDEX", "BASELINE", "PRE", "POST", "FINAL", "FOLLOW", "UP")
_PREFIX = re.compile(r"^\s*ALL[\s_-]*RISE[\s_-]*", re.I)
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_EMPTY = frozenset({"", "nan", "none", "null", "n/a", "na"})


class CsvOptions(Document):
    """How to read a CSV."""

    angle_sign: AngleSign = "lao-positive"
    """What a positive primary angle means; compared with the header of every file."""
    path_map: tuple[tuple[str, str], ...] = ()
    """Beginnings of paths and what to put in their place, for instance E:\\study to data."""


@dataclass(frozen=True)
class LabRow:
    """One usable row."""

    row: str
    """Its own id, else its line number."""
    line: int
    patient_id: str
    frame: int | None
    """Counted from 0, when the row says."""
    segment: str | None
    """Label name."""
    vessel: str | None
    phase: str | None
    view: View | None
    dicom: Path | None = None
    cine: Path | None = None
    contours: Path | None = None
    mask: Path | None = None
    tree: Path | None = None
    split: Split | None = None
    round: int | None = None
    lesion_box_xyxy: tuple[float, float, float, float] | None = None
    measurements: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    """What was left out of the row."""


def _text(values: Mapping[str, str], name: str) -> str | None:
    raw = (values.get(name) or "").strip()
    return None if raw.casefold() in _EMPTY else raw


def patient_of(text: str) -> str:
    """The patient's id without the study's name: `ALL RISE 101-0025` is 101-0025.

    Other dashes, widths and spaces of the same id are made one, lest a patient be in two splits.
    """
    plain = _DASHES.sub("-", unicodedata.normalize("NFKC", text))
    return " ".join(_PREFIX.sub("", plain).split())


def segment_of(values: Mapping[str, str], labels: LabelSet) -> str | None:
    """Label name of the analysed segment: by its number, else by the words of its pattern."""
    return _by_number(values, labels) or _by_words(values, labels)


def _by_number(values: Mapping[str, str], labels: LabelSet) -> str | None:
    for column in ("cass_segment", "cass_segment_original"):
        digits = re.match(r"\d{1,3}(?!\d)", _text(values, column) or "")
        for label in labels.of_role("segment"):
            if digits and label.code == int(digits[0]):
                return label.name
    return None


def _by_words(values: Mapping[str, str], labels: LabelSet) -> str | None:
    for column in ("vessel_pattern", "vessel_name"):
        words = [
            word
            for word in re.split(r"[\s_-]+", _text(values, column) or "")
            if word.upper() not in _PHASES
        ]
        with suppress(DataError):
            return labels.find(" ".join(words)).name
    return None


def _contradiction(values: Mapping[str, str], labels: LabelSet) -> tuple[str, ...]:
    """What to say where number and words name different segments, or the number none."""
    number, words = _by_number(values, labels), _by_words(values, labels)
    if number and words and number != words:
        return ("cass_segment and vessel_pattern name different segments; the number is kept",)
    if _text(values, "cass_segment") and not number and words:
        return ("cass_segment is no segment of the labels; vessel_pattern was taken",)
    return ()


def phase_of(values: Mapping[str, str]) -> str | None:
    """The phase as written, else as far as the pattern gives it."""
    given = _text(values, "phase")
    if given:
        return given
    pattern = _text(values, "vessel_pattern") or ""
    words = [word for word in re.split(r"[\s_-]+", pattern.upper()) if word in _PHASES]
    return " ".join(words) or None


def _view(values: Mapping[str, str], sign: AngleSign) -> View | None:
    primary = _text(values, "primary_angle")
    secondary = _text(values, "secondary_angle")
    if primary is None or secondary is None:
        return None
    a, b = angle_deg(primary, "primary", sign), angle_deg(secondary, "secondary")
    if a is None or b is None:
        raise DataError(
            f"angles {primary!r}, {secondary!r}; expected degrees, or words such as 'RAO 30', "
            "'CRA 20'; correct them"
        )
    return View(primary_deg=a, secondary_deg=b)


def _slashes(text: str) -> str:
    return text.replace("\\", "/").casefold()


def _path(text: str | None, root: Path, options: CsvOptions) -> Path | None:
    if text is None:
        return None
    if "\0" in text or ".." in PurePosixPath(text.replace("\\", "/")).parts:
        raise DataError(
            "a path has '..' or a NUL; expected one below the CSV's folder, or an absolute one; "
            "write it plainly or remap it with --path-map"
        )
    for start, instead in options.path_map:
        known, given = _slashes(start).rstrip("/"), _slashes(text)
        if given == known or given.startswith(f"{known}/"):
            return root / instead / text[len(known) :].replace("\\", "/").lstrip("/")
    windows = PureWindowsPath(text)
    if windows.drive:
        raise DataError(
            f"a path on drive {windows.drive} is not here; remap it with --path-map "
            f"{windows.drive}/=FOLDER"
        )
    return root / PurePosixPath(text.replace("\\", "/"))


def _whole(values: Mapping[str, str], name: str) -> int | None:
    raw = _text(values, name)
    if raw is None:
        return None
    try:
        number = float(raw)
    except ValueError:
        number = float("nan")
    if not 0 <= number < 1e9 or number != int(number):
        raise DataError(f"{name} is {raw!r}; expected a whole number from 0; correct it")
    return int(number)


def _box(text: str | None) -> tuple[float, float, float, float] | None:
    if text is None:
        return None
    try:
        numbers = [float(part) for part in re.split(r"[\s,;]+", text.strip("[]() "))]
    except ValueError:
        numbers = []
    if (
        len(numbers) != 4
        or not all(math.isfinite(number) for number in numbers)
        or numbers[0] >= numbers[2]
        or numbers[1] >= numbers[3]
    ):
        raise DataError(f"lesion_box is {text!r}; expected 'x1 y1 x2 y2' in px; correct it")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _split(text: str | None) -> Split | None:
    if text is None:
        return None
    names = {"train": Split.TRAIN, "training": Split.TRAIN, "val": Split.VAL, "valid": Split.VAL,
             "validation": Split.VAL, "test": Split.TEST, "testing": Split.TEST}  # fmt: skip
    if text.casefold() not in names:
        raise DataError(f"split is {text!r}; expected train, val or test")
    return names[text.casefold()]


def parse_row(
    values: Mapping[str, str], line: int, root: Path, labels: LabelSet, options: CsvOptions
) -> LabRow:
    """A row of the CSV with paths resolved and names recognised.

    Args:
        values: The row by lower-case column.
        line: Its number in the file, for messages.
        root: Folder that relative paths start from.
        labels: Names a segment may have.
        options: The CSV's conventions.

    Raises:
        DataError: what in the row cannot be used; names no patient.
    """
    patient = _text(values, "patient_id")
    if patient is None:
        raise DataError("patient_id is empty; every row needs one, to keep patients in one split")
    paths = {
        part: next((_text(values, name) for name in names if _text(values, name)), None)
        for part, names in _ALIASES.items()
    }
    dicom, cine = _text(values, "dicom_path"), _text(values, "cine_path")
    if dicom is None and cine is None:
        raise DataError("neither dicom_path nor cine_path is given; one is needed for the pixels")
    extra = {
        name: value.strip()
        for name, value in values.items()
        if name and name not in _KNOWN and not _IDENTITY.search(name)
        and (value or "").strip() and patient_of(patient) not in value
    }  # fmt: skip
    measured, remarks = _measured(values)
    return LabRow(
        row=_text(values, "row_id") or f"line {line}",
        line=line,
        patient_id=patient_of(patient),
        frame=_whole(values, "frame_index"),
        segment=segment_of(values, labels),
        vessel=_text(values, "vessel_name"),
        phase=phase_of(values),
        view=_view(values, options.angle_sign),
        dicom=_path(dicom, root, options),
        cine=_path(cine, root, options),
        contours=_path(paths["contours_path"], root, options),
        mask=_path(paths["mask_path"], root, options),
        tree=_path(paths["tree_path"], root, options),
        split=_split(_text(values, "split")),
        round=_whole(values, "round") or None,
        lesion_box_xyxy=_box(_text(values, "lesion_box")),
        measurements=measured,
        extra=extra,
        remarks=(*remarks, *_contradiction(values, labels)),
    )


def _measured(values: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The measurements a row gives, and which of them are no numbers."""
    measured, remarks = {}, []
    for name, most in _MEASURES.items():
        text = _text(values, name)
        if text is None:
            continue
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if 0 <= number <= most:
            measured[name] = text
        else:
            remarks.append(f"{name} is not a number from 0 to {most:g}; it was left out")
    return measured, tuple(remarks)
