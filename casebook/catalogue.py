"""The catalogue: every case, its lossless frames and the expert annotations that came with it.

One SQLite file beside one folder a case; a case is visible only after its files are whole.
Knows no image format of the hospital.
"""

import io
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageFile, PngImagePlugin

from casebook.annotations import AnnotationSet, read_annotations, write_annotations
from casebook.cases import Case, FrameRef, PixelSpacing, Split, View
from casebook.documents import sha256_of, write_bytes
from casebook.errors import DataError, StateError, TooLargeError
from casebook.home import Home
from casebook.protocols import Frame

_TABLE = """
CREATE TABLE IF NOT EXISTS cases (
    case_id TEXT PRIMARY KEY, patient TEXT NOT NULL, split TEXT NOT NULL, round INTEGER,
    annotated INTEGER NOT NULL, document TEXT NOT NULL
) WITHOUT ROWID
"""
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
"""Formats read back; others (EPS, PSD …) would hand the bytes to programs we do not ship."""
MAX_IMAGE_PX = 4096 * 4096
"""Largest image read back; a larger one is a damaged or hostile file."""


def png_bytes(
    pixels: UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"],
    spacing: PixelSpacing | None = None,
    view: View | None = None,
) -> bytes:
    """A lossless PNG whose text chunks carry geometry, and nothing of a patient."""
    chunks = PngImagePlugin.PngInfo()
    if spacing is not None:
        chunks.add_text("angioloop:spacing", spacing.model_dump_json())
    if view is not None:
        chunks.add_text("angioloop:view", view.model_dump_json())
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", pnginfo=chunks, compress_level=3)
    return stream.getvalue()


def png_is_whole(payload: bytes) -> bool:
    """Whether every chunk of a PNG is there up to the last, with the checksum it says.

    The decoder itself leaves the checksums of the pixels unread.
    Source: W3C PNG (Third Edition), 5.3 and 5.5.
    """
    position = 8
    while position + 12 <= len(payload):
        length = int.from_bytes(payload[position : position + 4], "big")
        kind = payload[position + 4 : position + 8]
        end = position + 8 + length
        if int.from_bytes(payload[end : end + 4], "big") != zlib.crc32(payload[position + 4 : end]):
            return False
        if kind == b"IEND":
            return True
        position = end + 4
    return False


def read_png(payload: bytes) -> Frame:
    """An 8-bit grey frame with the geometry its text chunks carry.

    RGB is converted by luma, transparency is left out; what is 16 bits deep is refused rather than
    cut to 8, in colours too.

    Raises:
        DataError: not an image, or 16 bits deep.
        TooLargeError: more pixels than a frame ever has.
    """
    try:
        with Image.open(io.BytesIO(payload), formats=_FORMATS) as image:
            if image.width * image.height > MAX_IMAGE_PX:
                raise TooLargeError(f"image of {image.width}×{image.height} px; send one frame")
            if image.format == "PNG" and not png_is_whole(payload):
                raise DataError("not a readable image: a checksum differs; send PNG or JPEG")
            refuse_deep(image)
            pixels = np.array(_grey(image), dtype=np.uint8)
            text = dict(getattr(image, "text", {}) or {})
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLargeError(f"image has more than {MAX_IMAGE_PX} px; send one frame") from None
    except (OSError, ValueError, SyntaxError, zlib.error) as problem:
        raise DataError(f"not a readable image: {problem}; send PNG or JPEG") from None
    return Frame(pixels, _spacing(text), _view(text))


def refuse_deep(image: Image.Image) -> None:
    """Refuse what has more than 8 bits a sample, before Pillow cuts it to 8 by decoding it.

    Raises:
        DataError: it has.
    """
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    deep_colours = any(";16" in str(tile.args) for tile in tiles)
    if deep_colours or image.mode.startswith("I") or image.mode == "F":
        raise DataError(
            f"image is deeper than 8 bits ({image.mode}); expected 8 bits; render it first"
        )


def _grey(image: Image.Image) -> Image.Image:
    if image.mode == "L":
        return image
    # A palette with transparency is turned into colours by way of RGBA alone.
    whole = image.convert("RGBA") if image.mode == "P" else image
    return whole.convert("RGB").convert("L")


def _spacing(text: Mapping[str, str]) -> PixelSpacing | None:
    raw = text.get("angioloop:spacing")
    try:
        return PixelSpacing.model_validate_json(raw) if raw else None
    except ValueError:
        raise DataError("the image's spacing text is damaged; export the frame again") from None


def _view(text: Mapping[str, str]) -> View | None:
    raw = text.get("angioloop:view")
    try:
        return View.model_validate_json(raw) if raw else None
    except ValueError:
        raise DataError("the image's view text is damaged; export the frame again") from None


def _no_case(case_id: str) -> StateError:
    return StateError(f"case {case_id} is not in the catalogue; `casebook list` shows them")


class Catalogue:
    """The cases of a workspace."""

    def __init__(self, home: Home) -> None:
        self._home = home
        home.cases.mkdir(parents=True, exist_ok=True)
        with self._connect() as connection, connection:
            connection.execute(_TABLE)

    def _connect(self) -> "closing[sqlite3.Connection]":
        connection = sqlite3.connect(self._home.catalogue, timeout=30)
        connection.execute("PRAGMA journal_mode=WAL")
        # A power cut may lose the last rows, never tear them; their files are whole by then, and
        # importing again brings the rows back.
        connection.execute("PRAGMA synchronous=NORMAL")
        return closing(connection)

    def folder(self, case_id: str) -> Path:
        """Where a case's files lie."""
        return self._home.cases / case_id

    def frame_path(self, ref: FrameRef) -> Path:
        """The rendered 8-bit PNG of a frame."""
        return self.folder(ref.case_id) / f"{ref.frame:05d}.png"

    def stored_path(self, ref: FrameRef) -> Path:
        """The stored bits of a frame, as a 16-bit PNG, for measurement."""
        return self.folder(ref.case_id) / f"{ref.frame:05d}.stored.png"

    def add(
        self,
        case: Case,
        frames: Mapping[int, bytes],
        *,
        stored: Mapping[int, bytes] | None = None,
        annotations: AnnotationSet | None = None,
        pseudo: AnnotationSet | None = None,
    ) -> None:
        """Add or replace a case: files first, then the row that makes it visible.

        Args:
            case: The case.
            frames: Its rendered frames as PNG.
            stored: The stored bits of some frames as PNG.
            annotations: What experts drew, when they did.
            pseudo: What another program drew and nobody reviewed; it makes no case annotated.

        Raises:
            DataError: the annotated frame is not among the frames, its hash is another, or the
                patient is in another split already.
        """
        if case.frame not in frames or sha256_of(frames[case.frame]) != case.image_sha256:
            raise DataError(
                f"case {case.case_id}: frame {case.frame} is missing or has another hash"
            )
        with self._connect() as connection:
            other = connection.execute(
                "SELECT split FROM cases WHERE patient=? AND split<>? AND case_id<>? LIMIT 1",
                (case.patient, case.split.value, case.case_id),
            ).fetchone()
            if other:
                raise DataError(
                    f"case {case.case_id}: patient {case.patient} is in split {other[0]} already, "
                    f"not {case.split.value}; correct the split column"
                )
            for index, payload in frames.items():
                write_bytes(self.frame_path(FrameRef(case_id=case.case_id, frame=index)), payload)
            for index, payload in (stored or {}).items():
                write_bytes(self.stored_path(FrameRef(case_id=case.case_id, frame=index)), payload)
            drawn = {
                self._expert_path(case.case_id): annotations,
                self._pseudo_path(case.case_id): pseudo,
            }
            for path, found in drawn.items():
                if found is not None:
                    write_annotations(path, found)
            with connection:
                connection.execute(
                    "INSERT OR REPLACE INTO cases VALUES (?,?,?,?,?,?)",
                    (
                        case.case_id,
                        case.patient,
                        case.split.value,
                        case.round,
                        int(annotations is not None),
                        case.model_dump_json(),
                    ),
                )
            for path, found in drawn.items():
                if found is None:  # of an earlier import; after the row, so that a kill shows
                    path.unlink(missing_ok=True)

    def remove(self, case_ids: Iterable[str]) -> None:
        """Take the rows of cases out, so that not even freed pages of the file keep them."""
        with self._connect() as connection:
            connection.execute("PRAGMA secure_delete=ON")
            with connection:
                connection.executemany(
                    "DELETE FROM cases WHERE case_id=?", [(case_id,) for case_id in case_ids]
                )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def has(self, case_id: str) -> bool:
        """Whether a case is there."""
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM cases WHERE case_id=?", (case_id,))
            return found.fetchone() is not None

    def get(self, case_id: str) -> Case:
        """One case.

        Raises:
            StateError: there is no such case.
        """
        with self._connect() as connection:
            row = connection.execute(
                "SELECT document FROM cases WHERE case_id=?", (case_id,)
            ).fetchone()
        if row is None:
            raise _no_case(case_id)
        return Case.model_validate_json(row[0])

    def several(self, case_ids: Sequence[str]) -> tuple[Case, ...]:
        """Some cases in the order asked for; up to a thousand cost little more than one.

        Raises:
            StateError: one of them is not there.
        """
        marks = ",".join("?" * len(case_ids))
        with self._connect() as connection:
            rows = connection.execute(
                f"SELECT case_id, document FROM cases WHERE case_id IN ({marks})",  # noqa: S608 - only marks
                tuple(case_ids),
            )
            found = {case_id: Case.model_validate_json(document) for case_id, document in rows}
        missing = next((case_id for case_id in case_ids if case_id not in found), None)
        if missing is not None:
            raise _no_case(missing)
        return tuple(found[case_id] for case_id in case_ids)

    def cases(self, *, split: Split | None = None, annotated: bool | None = None) -> Iterator[Case]:
        """Cases by id, one at a time, whatever their number."""
        last = ""
        while True:
            with self._connect() as connection:
                rows = connection.execute(
                    "SELECT case_id, document FROM cases WHERE case_id>? "
                    "AND (? IS NULL OR split=?) AND (? IS NULL OR annotated=?) "
                    "ORDER BY case_id LIMIT 500",
                    (last, split, split, annotated, annotated),
                ).fetchall()
            if not rows:
                return
            for _, document in rows:
                yield Case.model_validate_json(document)
            last = rows[-1][0]

    def count(self) -> int:
        """Number of cases."""
        with self._connect() as connection:
            row = connection.execute("SELECT COUNT(*) FROM cases").fetchone()
        return int(row[0])

    def frame(self, ref: FrameRef) -> Frame:
        """The rendered frame, with its geometry.

        Raises:
            StateError: the frame is not kept.
        """
        try:
            payload = self.frame_path(ref).read_bytes()
        except FileNotFoundError:
            raise StateError(f"frame {ref.frame} of case {ref.case_id} is not kept") from None
        return read_png(payload)

    def expert_annotations(self, case_id: str) -> AnnotationSet | None:
        """The annotations that came with the case, when any did."""
        path = self._expert_path(case_id)
        return read_annotations(path) if path.exists() else None

    def pseudo_annotations(self, case_id: str) -> AnnotationSet | None:
        """What another program drew on a case that no expert has annotated, when that came."""
        path = self._pseudo_path(case_id)
        return read_annotations(path) if path.exists() else None

    def _expert_path(self, case_id: str) -> Path:
        return self.folder(case_id) / "expert.coco.json"

    def _pseudo_path(self, case_id: str) -> Path:
        return self.folder(case_id) / "pseudo.coco.json"
