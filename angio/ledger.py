"""What an import remembers of the rows it has seen: on disk, so that memory stays flat.

Patients with their splits, and the case ids given out. Knows no format.
"""

import sqlite3
from types import TracebackType

from casebook.cases import Split

_TABLES = """
CREATE TABLE patients (patient TEXT PRIMARY KEY, split TEXT, torn INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE cases (case_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
CACHE_KB = 1024


class Ledger:
    """One import's memory: a temporary SQLite file that the system deletes with the process."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("")
        self._connection.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        self._connection.executescript(_TABLES)

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget everything."""
        self._connection.close()

    def note_patient(self, patient: str, split: Split | None) -> None:
        """Remember a patient, with the split a row gives."""
        given = split.value if split else None
        self._connection.execute(
            "INSERT INTO patients VALUES (?1, ?2, 0) ON CONFLICT (patient) DO UPDATE SET "
            "torn = torn OR (split IS NOT NULL AND ?2 IS NOT NULL AND split <> ?2), "
            "split = COALESCE(split, ?2)",
            (patient, given),
        )

    def split_of(self, patient: str) -> Split | None:
        """The split given to a patient by any row, when one was given."""
        found = self._patient(patient)
        return Split(found[0]) if found and found[0] else None

    def knows(self, patient: str) -> bool:
        """Whether a row named this patient."""
        return self._patient(patient) is not None

    def is_torn(self, patient: str) -> bool:
        """Whether rows put this patient into two splits."""
        found = self._patient(patient)
        return bool(found and found[1])

    def _patient(self, patient: str) -> tuple[str | None, int] | None:
        found: tuple[str | None, int] | None = self._connection.execute(
            "SELECT split, torn FROM patients WHERE patient=?", (patient,)
        ).fetchone()
        return found

    def is_new(self, case_id: str) -> bool:
        """Remember a case id; whether it had not been seen before."""
        done = self._connection.execute("INSERT OR IGNORE INTO cases VALUES (?)", (case_id,))
        return done.rowcount == 1
