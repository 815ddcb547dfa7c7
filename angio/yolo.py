"""YOLO data sets as cases: polygons become masks, boxes become prompts.

A label file has one line a thing: class, then centre and size of a box, or the corners of a
polygon, all as shares of the picture. Source: docs.ultralytics.com, "Datasets" (detect, segment).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from angio.intake import ImportReport, Incoming, Progress, key_for, take_in
from angio.picture_files import SUFFIXES, read_picture
from angio.plain_cases import Boxed, Drawn, Plain, Source, checked_box, picture_files
from angio.review import Desk
from angio.roster import SPLITS, read_roster
from angio.source_files import below, size_of
from casebook.cases import Split
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.polygons import from_polygon

PICTURE = "the picture"
LINES = "the label file"
MAX_BYTES = 16 * 1024**2
"""Largest data.yaml and label file."""
OUTSIDE = 1e-3
"""How far a share may leave 0 to 1 by rounding."""


@dataclass(frozen=True)
class YoloImage:
    """One picture and where its lines are."""

    name: str
    """Relative to the data set."""
    path: Path
    lines: Path
    split: Split


def import_yolo(
    path: Path,
    home: Home,
    labels: LabelSet,
    *,
    patients: Path | None = None,
    ruled_clean: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a YOLO data set: its `data.yaml` names the splits and the classes.

    A picture comes in with its polygons as masks, as one case; each box becomes a case of its own
    with the box as prompt; a picture without a label file comes in without annotations.

    Args:
        path: `data.yaml`, or the folder it lies in.
        home: The workspace.
        labels: What the classes are mapped to, by name or alias.
        patients: A table of patients (angio/roster.py).
        ruled_clean: A person has looked: no picture carries text.
        dry_run: Check everything, write nothing.
        progress: Told how many pictures of how many are done.

    Raises:
        DataError: data.yaml is missing or damaged, or a class is no label.
    """
    file = path / "data.yaml" if path.is_dir() else path
    settings = _settings(file)
    names = _names(settings, labels)
    images = _images(file, settings)
    key = key_for(home, dry_run=dry_run)
    source = Source(
        "yolo", "y", labels, read_roster(patients, key, None), Desk.open(home, dry_run=dry_run),
        ruled_clean,
    )  # fmt: skip

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for number, image in enumerate(images, start=1):
            where = f"picture {number} of {len(images)} ({image.split})"
            boxes, others = _box_lines(image.lines)
            if others or not boxes:
                yield where, partial(_read, image, names, source, None)
            for line in boxes:
                yield f"{where}, line {line}", partial(_read, image, names, source, line)

    notes = [source.roster.note, "pictures are numbered in the order of the splits and names"]
    return take_in(
        home, "yolo", cases(), total=len(images), notes=notes, dry_run=dry_run, progress=progress
    )


def _settings(file: Path) -> dict[str, Any]:
    if size_of(file, str(file)) > MAX_BYTES:
        raise DataError(f"{file} is larger than {MAX_BYTES} bytes; give YOLO's data.yaml")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError, RecursionError):
        raise DataError(f"{file} is not YAML; give YOLO's data.yaml") from None
    if not isinstance(found, dict) or not isinstance(found.get("names"), list | dict):
        raise DataError(f"{file} has no names; expected the classes by number; give data.yaml")
    if "kpt_shape" in found:
        raise DataError(f"{file} is of keypoints; expected boxes or polygons; convert it")
    return found


def _names(settings: dict[str, Any], labels: LabelSet) -> list[str]:
    """Label by class number.

    Raises:
        DataError: classes that are no labels, all of them, or gaps in their numbers.
    """
    given = settings["names"]
    numbered = list(given.items()) if isinstance(given, dict) else list(enumerate(given))
    if [number for number, _ in numbered] != list(range(len(numbered))):
        raise DataError("data.yaml numbers its classes with gaps; expected 0, 1, 2 …; correct it")
    names, unknown = [], []
    for _, name in numbered:
        try:
            label = labels.find(str(name)[:200])
        except DataError:
            unknown.append(str(name)[:200])
            continue
        if label.kind != "mask":
            unknown.append(label.name)
        names.append(label.name)
    if unknown:
        raise DataError(
            f"data.yaml has classes {', '.join(repr(name) for name in sorted(unknown))}, which are "
            f"no labels of {labels.name!r}; add them or an alias to the label file"
        )
    if not names:
        raise DataError("data.yaml names no class; expected at least one")
    return names


def _images(file: Path, settings: dict[str, Any]) -> list[YoloImage]:
    """The pictures of every split, once each."""
    root = file.parent
    given = settings.get("path")
    if isinstance(given, str) and given.strip("./") and (root / given.strip("./")).is_dir():
        root = below(root, given)
    images: list[YoloImage] = []
    seen: set[Path] = set()
    for word, split in SPLITS.items():
        places = settings.get(word) or []
        for place in places if isinstance(places, list) else [places]:
            if not isinstance(place, str):
                raise DataError(f"data.yaml: {word} is no folder; give folders of pictures")
            folder = below(root, place.removeprefix("../"))
            if not folder.is_dir():
                raise DataError(f"data.yaml: {word} names a folder that is not there; correct it")
            for path in picture_files(folder, SUFFIXES):
                if path in seen:
                    raise DataError(f"data.yaml: a picture of {word} is in another split as well")
                seen.add(path)
                images.append(
                    YoloImage(path.relative_to(root).as_posix(), path, _lines(path, root), split)
                )
    if not images:
        raise DataError(f"{file} names no picture; expected train, val or test folders")
    return images


def _lines(path: Path, root: Path) -> Path:
    """The label file of a picture: `labels` in place of the last folder `images`."""
    parts = list(path.relative_to(root).parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _box_lines(path: Path) -> tuple[list[int], bool]:
    """Line numbers of the boxes, and whether there is anything else."""
    try:
        rows = _rows(path)
    except DataError:
        return [], True  # reported when the picture is read
    return [line for line, values in rows if len(values) == 5], any(
        len(values) != 5 for _, values in rows
    )


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The lines that hold something, in pieces."""
    if not path.exists():
        return []
    if size_of(path, LINES) > MAX_BYTES:
        raise DataError(f"{LINES} is larger than {MAX_BYTES} bytes; expected one line a thing")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise DataError(
            f"{LINES} is not text; expected one line a thing; export it again"
        ) from None
    lines = enumerate(text.split("\n"), start=1)
    return [(number, line.split()) for number, line in lines if line.strip()]


def shares_of_file(path: Path, n_classes: int) -> list[tuple[int, list[float]]]:
    """Class and shares of every line of a label file.

    Raises:
        DataError: the file is not text, or a line is damaged.
    """
    return [_shares(line, values, n_classes) for line, values in _rows(path)]


def _shares(line: int, values: list[str], n_classes: int) -> tuple[int, list[float]]:
    """Class and shares of a line.

    Raises:
        DataError: no known class, not numbers, outside the picture, or neither box nor polygon.
    """
    if not (values[0].isascii() and values[0].isdigit()) or int(values[0][:9]) >= n_classes:
        raise DataError(f"line {line} has no class from 0 to {n_classes - 1}; correct it")
    try:
        shares = [float(value) for value in values[1:]]
    except ValueError:
        raise DataError(f"line {line} holds something other than numbers; correct it") from None
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise DataError(
            f"line {line} has {len(shares)} numbers; expected 4 of a box, or x and y of 3 corners "
            "or more; predictions with scores and keypoints are not labels"
        )
    if not all(-OUTSIDE <= share <= 1 + OUTSIDE for share in shares):
        raise DataError(f"line {line} has a share outside 0 to 1; expected shares of the picture")
    return int(values[0]), shares


def _read(image: YoloImage, names: list[str], source: Source, only: int | None) -> Incoming:
    pixels, stored = read_picture(image.path, PICTURE)
    hw = (int(pixels.shape[0]), int(pixels.shape[1]))
    drawn: list[Drawn] = []
    box: Boxed | None = None
    for line, values in _rows(image.lines):
        number, shares = _shares(line, values, len(names))
        if len(shares) == 4:
            box = Boxed(names[number], _corners(shares, hw)) if line == only else box
        elif only is None:
            points = [
                (x * hw[1] - 0.5, y * hw[0] - 0.5)
                for x, y in zip(shares[::2], shares[1::2], strict=True)
            ]
            drawn.append(Drawn(names[number], from_polygon(points, hw)))
    if only is not None and box is None:
        raise DataError(f"{LINES} changed while it was read; run again")
    return source.incoming(Plain(image.name, pixels, stored, tuple(drawn), box, image.split))


def _corners(shares: list[float], hw: tuple[int, int]) -> tuple[float, float, float, float]:
    x, y, width, height = shares
    return checked_box(
        (
            (x - width / 2) * hw[1],
            (y - height / 2) * hw[0],
            (x + width / 2) * hw[1],
            (y + height / 2) * hw[0],
        ),
        hw,
    )
