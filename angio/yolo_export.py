"""Cases and masks given out as a YOLO data set: pictures, lines of shares, data.yaml.

Polygons pass half-way between pixels, so that they come back as the same pixels; YOLO knows no
holes, so these are filled, and counted. Source: docs.ultralytics.com, "Datasets" (detect, segment).
"""

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool
from skimage.measure import label as regions

from angio.drawings import Drawings
from casebook.cases import Case
from casebook.catalogue import Catalogue
from casebook.documents import Document, write_bytes
from casebook.errors import StateError
from casebook.labels import LabelSet
from casebook.masks import Mask, decode
from casebook.polygons import from_rings, to_rings

DIGITS = 7


class YoloReport(Document):
    """What was written."""

    folder: str
    pictures: dict[str, int]
    """By split."""
    lines: int
    holes_filled: int
    """Masks with holes, which YOLO cannot say."""


def write_yolo(
    catalogue: Catalogue, drawings: Drawings, labels: LabelSet, out: Path, *, boxes: bool = False
) -> YoloReport:
    """Write every drawn case as a YOLO picture with its lines, whole or not at all.

    Args:
        catalogue: The cases.
        drawings: What is drawn on a frame; frames with nothing are left out.
        labels: Classes, in order.
        out: The folder, which must not be there yet.
        boxes: Boxes instead of polygons.

    Raises:
        StateError: the folder is there, or nothing is drawn.
    """
    if out.exists():
        raise StateError(f"{out} is there already; name a new folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        report = _write(catalogue, drawings, labels, scratch, boxes=boxes)
        if not report.pictures:
            raise StateError("no case has masks; import annotated ones, or name a pulled round")
        scratch.chmod(0o755)
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return report.with_(folder=str(out))


def _write(
    catalogue: Catalogue, drawings: Drawings, labels: LabelSet, folder: Path, *, boxes: bool
) -> YoloReport:
    numbers = {label.name: place for place, label in enumerate(labels.masks)}
    pictures: Counter[str] = Counter()
    n_lines = filled = 0
    for case in catalogue.cases():
        found = drawings(case.ref)
        if not found:
            continue
        lines: list[str] = []
        for name, mask in found:
            number = numbers[labels.find(name).name]
            if boxes:
                lines.append(_box_line(number, mask))
                continue
            bitmap = decode(mask)
            solid = _without_holes(bitmap)
            filled += bool((solid != bitmap).any())
            lines += [_polygon_line(number, part) for part in _parts(solid)]
        _place(catalogue, case, folder, lines)
        pictures[case.split.value] += 1
        n_lines += len(lines)
    settings = {
        **{split: f"images/{split}" for split in sorted(pictures)},
        "names": {place: label.name for place, label in enumerate(labels.masks)},
    }
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_bytes(folder / "data.yaml", text.encode())
    return YoloReport(
        folder=str(folder), pictures=dict(pictures), lines=n_lines, holes_filled=filled
    )


def _place(catalogue: Catalogue, case: Case, folder: Path, lines: list[str]) -> None:
    name = case.ref.file_name
    picture = folder / "images" / case.split.value / name
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(catalogue.frame_path(case.ref), picture)
    text = folder / "labels" / case.split.value / Path(name).with_suffix(".txt")
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _box_line(number: int, mask: Mask) -> str:
    x1, y1, x2, y2 = mask.box_xyxy
    height, width = mask.hw
    shares = (
        (x1 + x2 + 1) / 2 / width,
        (y1 + y2 + 1) / 2 / height,
        (x2 + 1 - x1) / width,
        (y2 + 1 - y1) / height,
    )
    return " ".join([str(number), *(f"{share:.{DIGITS}f}" for share in shares)])


def _without_holes(bitmap: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The bitmap with every hole filled."""
    outside = regions(np.pad(~bitmap, 1, constant_values=True), connectivity=1)
    return np.asarray((outside != outside[0, 0])[1:-1, 1:-1])


def _parts(bitmap: Bool[np.ndarray, "h w"]) -> list[Bool[np.ndarray, "h w"]]:
    numbered = regions(bitmap, connectivity=2)
    return [np.asarray(numbered == number) for number in range(1, int(numbered.max()) + 1)]


def _polygon_line(number: int, part: Bool[np.ndarray, "h w"]) -> str:
    height, width = part.shape
    rings = to_rings(part)
    ring = max(rings, key=lambda ring: int(from_rings([ring], part.shape).sum()))
    shares = [
        f"{share:.{DIGITS}f}" for x, y in ring for share in ((x + 0.5) / width, (y + 0.5) / height)
    ]
    return " ".join([str(number), *shares])
