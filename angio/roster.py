"""Whose the pictures of a data set are: a table of files, patients and splits, if there is one.

Without the table every picture stands for itself, and the report says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from angio.csv_files import open_csv
from angio.deident import keyed, pseudonym
from angio.lab_csv import patient_of
from casebook.cases import Split
from casebook.errors import DataError
from casebook.split import split_of

IMAGE_LEVEL = (
    "no table of patients was given (--patients): each picture stands for itself, and the split is "
    "by picture, not by patient"
)
PATIENT_LEVEL = "the split is by patient, as the table of patients has them"
SPLITS: Mapping[str, Split] = {
    "train": Split.TRAIN, "training": Split.TRAIN, "val": Split.VAL, "valid": Split.VAL,
    "validation": Split.VAL, "test": Split.TEST, "testing": Split.TEST,
}  # fmt: skip
"""Names data sets give to splits."""


@dataclass(frozen=True)
class Owner:
    """Whose picture it is."""

    patient_id: str
    """For the re-link table only: the patient, or the file where nobody is named."""
    pseudonym: str
    split: Split


@dataclass(frozen=True)
class Roster:
    """Owners of pictures."""

    key: bytes
    split: Split | None = None
    """The split of the whole data set, where it is given."""
    patients: Mapping[str, tuple[str, Split | None]] = field(default_factory=dict)
    """Patient and split by file name; empty where there is no table."""

    @property
    def note(self) -> str:
        """What the report says of the split."""
        return PATIENT_LEVEL if self.patients else IMAGE_LEVEL

    def owner(self, name: str, identity: str, split: Split | None = None) -> Owner:
        """Whose picture this is.

        Args:
            name: Its file name within the data set.
            identity: What identifies it when nobody is named.
            split: The split its place in the data set gives, if it gives one.

        Raises:
            DataError: the table does not have it, or names another split.
        """
        wanted = self.split or split
        if not self.patients:
            person = f"p{keyed(self.key, 'picture', identity).hex()[:12]}"
            return Owner(name, person, wanted or split_of(person, self.key))
        found = self.patients.get(name)
        if found is None:
            raise DataError("is not in the table of patients; add it, or take it out")
        patient, given = found
        if given is not None and wanted is not None and given is not wanted:
            raise DataError(
                f"split is {given} in the table of patients and {wanted} in the data set; make "
                "them agree"
            )
        person = pseudonym(self.key, patient)
        return Owner(patient, person, given or wanted or split_of(person, self.key))


def read_roster(path: Path | None, key: bytes, split: Split | None) -> Roster:
    """The roster of a data set.

    Args:
        path: A CSV with the columns file, patient_id and, if wanted, split; or none.
        key: The installation's secret.
        split: The split of the whole data set, where it is given.

    Raises:
        DataError: the table has no such columns, names a file twice, a file without a patient, an
            unknown split, or a patient in two splits.
    """
    if path is None:
        return Roster(key, split)
    table = open_csv(path, "patient_id")
    if "file" not in table.columns:
        raise DataError(f"{path} has no column file; expected file, patient_id and perhaps split")
    patients: dict[str, tuple[str, Split | None]] = {}
    splits: dict[str, Split] = {}
    for line, cells in table.rows():
        values = table.values(cells)
        name = values["file"].strip().replace("\\", "/")
        patient = patient_of(values["patient_id"])
        word = values.get("split", "").strip().casefold()
        if not name or not patient or (word and word not in SPLITS) or name in patients:
            raise DataError(
                f"{path} line {line}: expected a file named once, a patient and train, val, test "
                "or nothing as split; correct it"
            )
        given = SPLITS.get(word)
        if given is not None and splits.setdefault(patient, given) is not given:
            raise DataError(
                f"{path} line {line}: its patient is in two splits; give all of a patient's files "
                "the same"
            )
        patients[name] = (patient, given)
    if not patients:
        raise DataError(f"{path} has no rows; list every file with its patient")
    whole = {n: (patient, splits.get(patient)) for n, (patient, _) in patients.items()}
    return Roster(key, split, whole)
