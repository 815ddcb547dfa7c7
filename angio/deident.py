"""Pseudonyms, the installation's key, the re-link table, and the check for text burned into pixels.

Nothing of a patient leaves `private/`; messages from here name no patient. Knows no DICOM tags:
those are in angio/dicom/identity.py.
"""

import csv
import hashlib
import hmac
import io
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from casebook.cases import DeidRecord
from casebook.documents import write_bytes
from casebook.errors import ConfigError, DeidError
from casebook.home import Home

KEY_BYTES = 32
RELINK_COLUMNS = ("pseudonym", "patient_id", "case_id", "source_row")

EDGE_LEVELS = 60
"""Grey levels between neighbours that film and optics never reach but drawn letters do."""
INK_LEVELS = 40
"""How far ink differs from the mean of its surroundings."""
SURROUNDINGS_PX = 21
LETTER_PX = (5, 40)
"""Least and greatest height of a letter."""
LETTERS_MIN = 3
"""Letters in one line before it counts as text."""


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
    """Add lines to the re-link table (mode 0600), replacing those of the same case."""
    known = read_relink(home)
    known.update({entry.case_id: entry for entry in entries})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RELINK_COLUMNS)
    for entry in sorted(known.values(), key=lambda entry: entry.case_id):
        writer.writerow([entry.pseudonym, entry.patient_id, entry.case_id, entry.source_row])
    home.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_bytes(home.private / "relink.csv", text.getvalue().encode(), mode=0o600)


def _strokes(pixels: UInt8[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels at a sharp edge, on the side that differs from the surroundings: ink, not paper."""
    values = pixels.astype(np.float32)
    edges = np.zeros(pixels.shape, dtype=bool)
    across = np.abs(np.diff(values, axis=1)) > EDGE_LEVELS
    down = np.abs(np.diff(values, axis=0)) > EDGE_LEVELS
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    if not edges.any():
        return edges
    apart = np.abs(values - ndimage.uniform_filter(values, SURROUNDINGS_PX))
    return np.asarray(edges & (apart > INK_LEVELS))


def text_boxes(pixels: UInt8[np.ndarray, "h w"]) -> tuple[tuple[int, int, int, int], ...]:
    """Boxes (x1, y1, x2, y2 inclusive) of what looks like drawn letters in a row.

    Letters are small islands of edges sharper than optics allow, several side by side at one
    height. Borders of a collimator are long and straight, noise is not as sharp: neither counts.
    """
    ink = _strokes(pixels)
    if not ink.any():
        return ()
    numbered, _ = ndimage.label(ink, structure=np.ones((3, 3)))
    letters = []
    for island in ndimage.find_objects(numbered):
        rows, columns = island
        height, width = rows.stop - rows.start, columns.stop - columns.start
        if LETTER_PX[0] <= height <= LETTER_PX[1] and 2 <= width <= 2 * LETTER_PX[1]:
            letters.append((columns.start, rows.start, columns.stop - 1, rows.stop - 1))
    lines = []
    for letter in letters:
        height = letter[3] - letter[1] + 1
        middle = (letter[1] + letter[3]) / 2
        line = [
            other
            for other in letters
            if abs((other[1] + other[3]) / 2 - middle) < 0.6 * height
            and abs(other[0] - letter[0]) < 5 * LETTERS_MIN * height
        ]
        if len(line) >= LETTERS_MIN:
            lines.append(
                (
                    min(other[0] for other in line),
                    min(other[1] for other in line),
                    max(other[2] for other in line),
                    max(other[3] for other in line),
                )
            )
    return tuple(sorted(set(lines)))


def check_pixels(pixels: UInt8[np.ndarray, "h w"], where: str) -> None:
    """Refuse a frame that seems to carry text.

    Raises:
        DeidError: says where in the picture; a person must look.
    """
    found = text_boxes(pixels)
    if found:
        x1, y1, x2, y2 = found[0]
        raise DeidError(
            f"{where}: something like burned-in text at x {x1}–{x2}, y {y1}–{y2} px; "
            "expected none. Look at it and export the run without text"
        )


def deid_record(method: str, kept: tuple[str, ...], removed: int) -> DeidRecord:
    """What is stored with a case whose pixels passed the check."""
    return DeidRecord(
        method=method, kept_tags=kept, removed_elements=removed, pixel_text="none found"
    )
