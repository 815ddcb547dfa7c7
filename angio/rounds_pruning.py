"""Taking some cases out of a round's sealed files, with a tombstone for each.

Knows the files by their form alone: entries that name a case, images of COCO and what hangs on
them, positions in a task's frames. Knows no patient, no model and no CVAT.
"""

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from casebook.cases import FrameRef
from casebook.documents import Document, sha256_of, write_bytes
from casebook.errors import DataError
from casebook.tombstones import JOURNAL, Tombstone, add_tombstone

_OF_FRAMES = ("shapes", "tags", "notes")
"""What a pulled job says about positions in its task."""
_MADE_AGAIN = ("report.html", "report.json")
"""Files with pictures or sums over all cases; the step that writes them makes them anew."""
_KEPT_WHOLE = ("pushed.json", "push.journal.jsonl")
"""They say what lies in CVAT, by position and pseudonymous name, and are needed to remove it."""


class Pruned(Document):
    """A file of a round that lost entries."""

    round: str
    """Name of the round's folder."""
    file: str
    entries: int


@dataclass(frozen=True)
class TaskCopy:
    """Frames of some cases in one task of CVAT."""

    url: str
    task_id: int
    frames: tuple[str, ...]


def _is_of(entry: object, cases: Collection[str]) -> bool:
    """Whether an entry of a list is about one of the cases."""
    if isinstance(entry, str):
        named = FrameRef.from_file_name(entry)
        return named is not None and named.case_id in cases
    if not isinstance(entry, dict):
        return False
    at = entry.get("at")
    ids = [entry.get("case_id"), at.get("case_id") if isinstance(at, dict) else None]
    names = [entry.get("file_name"), entry.get("frame_name")]
    return any(isinstance(i, str) and i in cases for i in ids) or any(
        isinstance(name, str) and _is_of(name, cases) for name in names
    )


def _without(value: object, cases: Collection[str]) -> tuple[object, int]:
    """A document without what is about the cases, and how many entries it lost."""
    if isinstance(value, list):
        kept = [_without(entry, cases) for entry in value if not _is_of(entry, cases)]
        return [entry for entry, _ in kept], len(value) - len(kept) + sum(n for _, n in kept)
    if not isinstance(value, dict):
        return value, 0
    gone: set[object] = set()
    images = value.get("images")
    if isinstance(images, list):
        gone = {image["id"] for image in images if isinstance(image, dict) and _is_of(image, cases)}
    left: dict[str, object] = {}
    lost = 0
    for name, part in value.items():
        if name in cases or _is_of(name, cases):
            lost += 1
            continue
        if name == "annotations" and isinstance(part, list) and gone:
            whole = len(part)
            part = [a for a in part if not (isinstance(a, dict) and a.get("image_id") in gone)]
            lost += whole - len(part)
        if isinstance(part, dict) and _is_of(part, cases) and name != "at":
            lost += 1
            continue
        if name == "frames" and "task_id" in value:
            left[name] = part  # positions in CVAT count on it
            continue
        left[name], count = _without(part, cases)
        lost += count
    return left, lost


def _read(path: Path) -> object:
    try:
        value: object = json.loads(path.read_bytes())
    except ValueError:
        raise DataError(
            f"{path.parent.name}/{path.name} is not JSON, so that nothing can be taken out of it; "
            "restore or delete it, and run the withdrawal again"
        ) from None
    return value


def _tasks(round_path: Path) -> Iterator[dict[str, object]]:
    """Everything in a round's documents that says which frames a task of CVAT has."""

    def walk(value: object, url: object) -> Iterator[dict[str, object]]:
        if isinstance(value, list):
            for entry in value:
                yield from walk(entry, url)
        elif isinstance(value, dict):
            url = value.get("url", url)
            if "task_id" in value and isinstance(value.get("frames"), list):
                yield {**value, "url": url}
            for part in value.values():
                yield from walk(part, url)

    for path in sorted(round_path.glob("*.json")):
        yield from walk(_read(path), "")


def copies_in(round_path: Path, cases: Collection[str]) -> Iterator[TaskCopy]:
    """Which frames of the cases lie in which task."""
    for task in _tasks(round_path):
        frames = task["frames"]
        names = (
            [name for name in frames if isinstance(name, str)] if isinstance(frames, list) else []
        )
        ours = tuple(name for name in names if _is_of(name, cases))
        if ours and isinstance(task["task_id"], int):
            yield TaskCopy(str(task["url"]), task["task_id"], ours)


def _positions(round_path: Path, cases: Collection[str]) -> dict[int, set[int]]:
    """Positions of the cases' frames in every task."""
    found: dict[int, set[int]] = {}
    for task in _tasks(round_path):
        frames, task_id = task["frames"], task["task_id"]
        if isinstance(frames, list) and isinstance(task_id, int):
            ours = {place for place, name in enumerate(frames) if _is_of(name, cases)}
            found.setdefault(task_id, set()).update(ours)
    return found


def _without_positions(job: object, positions: dict[int, set[int]]) -> tuple[object, int]:
    """A pulled job without what was drawn on some frames of its task."""
    if not isinstance(job, dict) or not isinstance(job.get("task_id"), int):
        return job, 0
    gone = positions.get(int(str(job["task_id"])), set())
    lost, left = 0, dict(job)
    for name in _OF_FRAMES:
        part = job.get(name)
        if isinstance(part, list):
            kept = [e for e in part if not (isinstance(e, dict) and e.get("frame") in gone)]
            left[name] = kept
            lost += len(part) - len(kept)
    return left, lost


def prune_round(round_path: Path, cases: Collection[str]) -> list[Pruned]:
    """Take the cases out of every file of a round; a second time changes nothing.

    Raises:
        DataError: a document of the round is not JSON.
    """
    pruned = []
    positions = _positions(round_path, cases)
    for path in sorted(round_path.rglob("*")):
        name = path.relative_to(round_path).as_posix()
        if not path.is_file() or name in _KEPT_WHOLE or name == JOURNAL:
            continue
        if path.suffix == ".json" and name not in _MADE_AGAIN:
            value, by_name = _without(_read(path), cases)
            value, by_place = _without_positions(value, positions)
            if by_name + by_place:
                payload = (json.dumps(value, indent=1) + "\n").encode()
                _replace(round_path, path, payload, by_name + by_place)
                pruned.append(Pruned(round=round_path.name, file=name, entries=by_name + by_place))
        elif path.suffix == ".jsonl":
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not mentions(line, cases)]
            if len(kept) < len(lines):
                lost = len(lines) - len(kept)
                _replace(round_path, path, b"".join(kept), lost)
                pruned.append(Pruned(round=round_path.name, file=name, entries=lost))
    for name in _MADE_AGAIN:
        path = round_path / name
        if path.exists() and (pruned or mentions(path.read_bytes(), cases)):
            _replace(round_path, path, None, 1)
            pruned.append(Pruned(round=round_path.name, file=name, entries=1))
    return pruned


def mentions(payload: bytes, cases: Collection[str]) -> bool:
    """Whether some bytes name one of the cases."""
    return any(case.encode() in payload for case in cases)


def _replace(round_path: Path, path: Path, payload: bytes | None, entries: int) -> None:
    """Change a file, after its tombstone is on disk."""
    tombstone = Tombstone(
        file=path.relative_to(round_path).as_posix(),
        sha256_before=sha256_of(path.read_bytes()),
        sha256_after=None if payload is None else sha256_of(payload),
        entries=entries,
        at=datetime.now(UTC),
    )
    add_tombstone(round_path, tombstone)
    if payload is None:
        path.unlink()
    else:
        write_bytes(path, payload)
