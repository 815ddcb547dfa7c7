"""Pseudonyms, the installation's key and the re-link table.

Nothing of a patient leaves `private/`; messages from here name no patient. Knows no DICOM tags
(angio/dicom/identity.py) and no pixels (angio/burned_text.py).
"""

import csv
import hashlib
import hmac
import io
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from casebook.documents import write_bytes
from casebook.errors import ConfigError
from casebook.home import Home, locked

KEY_BYTES = 32
TORN_MAX = 64 * 1024
"""How far back a line torn by a crash is looked for, in bytes."""
RELINK_COLUMNS = ("pseudonym", "patient_id", "case_id", "source_row")


def key_of(home: Home) -> bytes:
    """The installation's secret, made on first use (`private/key`, mode 0600).

    Raises:
        ConfigError: the file is damaged.
    """
    path = home.private / "key"
    if not path.exists():
        home.private.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", mode=0o600)
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (ValueError, UnicodeDecodeError):
        key = b""
    if len(key) < KEY_BYTES:
        raise ConfigError(f"{path} holds no key of {KEY_BYTES} bytes in hexadecimal; restore it")
    return key


def keyed(key: bytes, purpose: str, text: str) -> bytes:
    """HMAC-SHA-256 of a text, for one purpose only."""
    return hmac.new(key, f"{purpose}:{text}".encode(), hashlib.sha256).digest()


def pseudonym(key: bytes, patient_id: str) -> str:
    """The patient's pseudonym: the same for the same id, unguessable without the key."""
    return f"p{keyed(key, 'patient', patient_id).hex()[:12]}"


def remapped_uid(key: bytes, uid: str) -> str:
    """A UID in place of another. Source: DICOM PS3.5 B.2 (UUID-derived UIDs)."""
    return f"2.25.{int.from_bytes(keyed(key, 'uid', uid)[:16], 'big')}"


def shift_days(key: bytes, patient_id: str) -> int:
    """Days by which a patient's dates move into the past, 1 to 3650."""
    return 1 + int.from_bytes(keyed(key, "dates", patient_id)[:4], "big") % 3650


@dataclass(frozen=True)
class Relink:
    """One line of the re-link table: what a pseudonymous case was."""

    pseudonym: str
    patient_id: str
    case_id: str
    source_row: str


def read_relink(home: Home) -> dict[str, Relink]:
    """The re-link table by case id; empty when there is none."""
    path = home.private / "relink.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["case_id"]: Relink(**row) for row in csv.DictReader(stream)}


def add_relinks(home: Home, entries: Iterable[Relink]) -> None:
    """Add lines to the re-link table (mode 0600); the last line of a case is the one that counts.

    Lines are appended, so that a long import neither holds the table nor writes it anew; a line
    torn by a crash is cut off first.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for entry in entries:
        fields = (entry.pseudonym, entry.patient_id, entry.case_id, entry.source_row)
        writer.writerow([" ".join(field.split()) for field in fields])
    home.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home.private / "relink.csv"
    with locked(home.private / "relink.lock", "the re-link table", timeout_s=30.0):
        if not path.exists():
            write_bytes(path, (",".join(RELINK_COLUMNS) + "\n").encode(), mode=0o600)
        with path.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, end - TORN_MAX))
            tail = stream.read()
            whole = end - len(tail) + tail.rfind(b"\n") + 1
            stream.truncate(whole)
            stream.seek(whole)
            stream.write(text.getvalue().encode())
            stream.flush()
            os.fsync(stream.fileno())


def remove_relinks(home: Home, pseudonym: str) -> None:
    """Remove a patient's lines from the re-link table."""
    path = home.private / "relink.csv"
    with locked(home.private / "relink.lock", "the re-link table", timeout_s=30.0):
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.reader(stream))
        kept = [row for row in rows if row and row[0] != pseudonym]
        if len(kept) < len(rows):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(kept)
            write_bytes(path, text.getvalue().encode(), mode=0o600)
