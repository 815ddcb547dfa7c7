"""Frames held because something on them may be text, and what a person ruled about them.

A ruling belongs to the exact pixels it was made for, so that it holds at the next import of the
same source and for nothing else. What was held lies in `private/held/`, rulings in
`private/rulings.jsonl`; both may show a name and never leave. Finds no text itself.
"""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field

from angio.deident import read_relink
from angio.letters import Box
from casebook.documents import Document, append_line, read_document, read_lines, sha256_of
from casebook.documents import write_bytes as write_file
from casebook.errors import DataError, StateError
from casebook.home import Home, locked

Outcome = Literal["clean", "mask", "refuse"]

CROP_MARGIN_PX = 12
CROP_SCALE = 3
"""Crops are shown this many times larger, for people."""


class Held(Document):
    """Frames of one case that wait for a person."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    held_id: str
    pixels_sha256: str
    """Identity of the frames as they came, before any masking."""
    patient: str = ""
    """Pseudonym, where the import knows it."""
    source: str = ""
    """Where it came from; may name a patient, and so stays in private/."""
    height_px: int
    width_px: int
    boxes_xyxy: tuple[Box, ...]
    """Where text is suspected."""
    reasons: tuple[str, ...]
    """For each box, what speaks for text and what against."""
    crops: tuple[str, ...]
    """For each box, a picture of it beside this file."""
    at: datetime


class Ruling(Document):
    """What a person decided about held frames."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    held_id: str
    pixels_sha256: str
    patient: str = ""
    height_px: int
    width_px: int
    suspected_xyxy: tuple[Box, ...]
    outcome: Outcome
    boxes_xyxy: tuple[Box, ...] = ()
    """What is painted over, when the outcome is `mask`."""
    reason: str = ""
    at: datetime


def pixels_sha256(frames: UInt8[np.ndarray, "t h w"]) -> str:
    """Identity of rendered frames, whatever file they come in."""
    return sha256_of(repr(frames.shape).encode() + np.ascontiguousarray(frames).tobytes())


def _folder(home: Home) -> Path:
    return home.private / "held"


def _journal(home: Home) -> Path:
    return home.private / "rulings.jsonl"


def read_rulings(home: Home) -> dict[str, Ruling]:
    """The rulings by the identity of the pixels; the last one counts."""
    return {entry.pixels_sha256: entry for entry in read_lines(_journal(home), Ruling)}


def read_held(home: Home) -> list[Held]:
    """What waits for a person, oldest first."""
    ruled = read_rulings(home)
    found = [read_document(path, Held) for path in sorted(_folder(home).glob("*/held.json"))]
    waiting = [entry for entry in found if entry.pixels_sha256 not in ruled]
    return sorted(waiting, key=lambda entry: (entry.at, entry.held_id))


def crop_paths(home: Home, held: Held) -> tuple[Path, ...]:
    """Pictures of the suspected boxes."""
    return tuple(_folder(home) / held.held_id / name for name in held.crops)


@dataclass(frozen=True)
class Desk:
    """Where an import asks for rulings and leaves what a person must look at."""

    home: Home
    rulings: dict[str, Ruling]
    dry_run: bool = False

    @classmethod
    def open(cls, home: Home, *, dry_run: bool = False) -> "Desk":
        """The desk of a workspace, with the rulings made so far."""
        return cls(home, read_rulings(home), dry_run)

    def ruling(self, frames: UInt8[np.ndarray, "t h w"]) -> Ruling | None:
        """What a person ruled about exactly these frames, if anybody did."""
        return self.rulings.get(pixels_sha256(frames)) if self.rulings else None

    def hold(
        self,
        frames: UInt8[np.ndarray, "t h w"],
        boxes: Sequence[Box],
        reasons: Sequence[str],
        *,
        patient: str = "",
        source: str = "",
    ) -> str:
        """Keep pictures of the suspected boxes for a person; in a dry run only name the case."""
        identity = pixels_sha256(frames)
        held_id = f"h{identity[:12]}"
        if self.dry_run:
            return held_id
        folder = _folder(self.home) / held_id
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        names = []
        for number, box in enumerate(boxes, start=1):
            names.append(f"box-{number:02d}.png")
            write_file(folder / names[-1], _crop(frames[len(frames) // 2], box), mode=0o600)
        held = Held(
            held_id=held_id,
            pixels_sha256=identity,
            patient=patient,
            source=source,
            height_px=frames.shape[1],
            width_px=frames.shape[2],
            boxes_xyxy=tuple(boxes),
            reasons=tuple(reasons),
            crops=tuple(names),
            at=datetime.now(UTC),
        )
        payload = (held.model_dump_json(indent=1) + "\n").encode()
        write_file(folder / "held.json", payload, mode=0o600)
        return held_id


def _crop(frame: UInt8[np.ndarray, "h w"], box: Box) -> bytes:
    x1, y1, x2, y2 = box
    part = frame[
        max(0, y1 - CROP_MARGIN_PX) : y2 + 1 + CROP_MARGIN_PX,
        max(0, x1 - CROP_MARGIN_PX) : x2 + 1 + CROP_MARGIN_PX,
    ]
    picture = Image.fromarray(part)
    size = (picture.width * CROP_SCALE, picture.height * CROP_SCALE)
    stream = io.BytesIO()
    picture.resize(size, Image.Resampling.NEAREST).save(stream, "PNG")
    return stream.getvalue()


def rule(
    home: Home,
    held_id: str,
    outcome: Outcome,
    *,
    boxes: Sequence[Box] = (),
    reason: str = "",
) -> Ruling:
    """Record a person's ruling; the next import of the same source follows it.

    A second ruling on the same case replaces the first; the same one again changes nothing.

    Args:
        home: The workspace.
        held_id: As `casebook deid review` names it.
        outcome: No text; text in `boxes`; or the case is not to be used.
        boxes: What to paint over, when the outcome is `mask`.
        reason: For the audit; names no patient.

    Raises:
        StateError: nothing of this name was held.
        DataError: a box leaves the picture, or the reason carries a patient's id.
    """
    _check_reason(home, reason)
    home.private.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(home.private / "rulings.lock", "a ruling", timeout_s=30.0):
        subject = _subject(home, held_id)
        if (outcome == "mask") != bool(boxes):
            raise DataError(f"{held_id}: outcome {outcome} with {len(boxes)} boxes; expected boxes "
                            "for `mask` and none otherwise")  # fmt: skip
        for box in boxes:
            _check_box(held_id, box, subject.height_px, subject.width_px)
        before = read_rulings(home).get(subject.pixels_sha256)
        ruling = Ruling(
            held_id=held_id,
            pixels_sha256=subject.pixels_sha256,
            patient=subject.patient,
            height_px=subject.height_px,
            width_px=subject.width_px,
            suspected_xyxy=_suspected(subject),
            outcome=outcome,
            boxes_xyxy=tuple(boxes),
            reason=reason,
            at=before.at if before else datetime.now(UTC),
        )
        if ruling != before:
            ruling = ruling.with_(at=datetime.now(UTC))
            _journal(home).touch(mode=0o600)
            append_line(_journal(home), ruling)
            home.audit("deid rule", held_id, f"{outcome} {list(boxes) or ''}: {reason}".strip())
        shutil.rmtree(_folder(home) / held_id, ignore_errors=True)
    return ruling


def suspected(home: Home, held_id: str) -> tuple[Box, ...]:
    """The boxes in which text was suspected, also after a ruling.

    Raises:
        StateError: nothing of this name was held.
    """
    return _suspected(_subject(home, held_id))


def _suspected(subject: Held | Ruling) -> tuple[Box, ...]:
    return subject.boxes_xyxy if isinstance(subject, Held) else subject.suspected_xyxy


def forget_held(home: Home, patient: str) -> None:
    """Remove what was held of a patient, and the rulings about it."""
    for path in _folder(home).glob("*"):
        document = path / "held.json"
        if not document.exists() or read_document(document, Held).patient == patient:
            shutil.rmtree(path)
    rulings = read_lines(_journal(home), Ruling)
    kept = [entry for entry in rulings if entry.patient != patient]
    if len(kept) < len(rulings):
        payload = "".join(f"{entry.model_dump_json()}\n" for entry in kept).encode()
        write_file(_journal(home), payload, mode=0o600)


def _subject(home: Home, held_id: str) -> Held | Ruling:
    path = _folder(home) / held_id / "held.json"
    if held_id.isalnum() and path.exists():
        return read_document(path, Held)
    for ruling in read_rulings(home).values():
        if ruling.held_id == held_id:
            return ruling
    raise StateError(f"no case {held_id!r} is held; `casebook deid review` lists those that are")


def _check_box(held_id: str, box: Box, height_px: int, width_px: int) -> None:
    x1, y1, x2, y2 = box
    if not (0 <= x1 <= x2 < width_px and 0 <= y1 <= y2 < height_px):
        raise DataError(
            f"{held_id}: box {x1},{y1},{x2},{y2} leaves the picture of {width_px}×{height_px} px; "
            "expected x1,y1,x2,y2 inclusive with x1 ≤ x2 and y1 ≤ y2"
        )


def _check_reason(home: Home, reason: str) -> None:
    """Refuse a reason that says who the patient is, as far as the re-link table can tell."""
    said = reason.casefold()
    if any(entry.patient_id.casefold() in said for entry in read_relink(home).values()):
        raise DataError(
            "the reason carries a patient's id, and the audit is not private; say it without"
        )
