"""A data set written as COCO: a folder for each split with images and annotations.json.

Masks are compressed run lengths. Beside COCO's own fields an image says which case it is and which
labels are its negatives, an annotation where it comes from. The folder appears whole or not at
all. Knows nothing of phases.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from angio.datasets import DrawnFrame, Selection, frames
from casebook import masks
from casebook.annotations import CocoCategory, CocoRle, Origin
from casebook.cases import CaseId
from casebook.catalogue import Catalogue
from casebook.documents import Document, sha256_of, sha256_of_file, write_document
from casebook.errors import ConfigError, DataError
from casebook.home import Home
from casebook.labels import Label


class DatasetImage(Document):
    """One picture."""

    id: int
    file_name: str
    """Within the split's `images` folder."""
    width: int
    height: int
    case_id: CaseId
    frame: int
    sha256: str
    negatives: tuple[str, ...] = ()
    """Hard negatives: labels similar to those drawn, and not drawn."""
    absent: tuple[str, ...] = ()
    """Labels known not to be in the picture."""


class DatasetAnnotation(Document):
    """One mask, or the mark of a label nobody looked for."""

    id: int
    image_id: int
    category_id: int
    segmentation: CocoRle | None
    area: float
    bbox: tuple[float, float, float, float]
    """x, y, width, height in px."""
    iscrowd: Literal[0, 1] = 0
    """1: to be ignored."""
    origin: Origin | None = None
    model_id: str | None = None


class Dataset(Document):
    """annotations.json of a split."""

    info: dict[str, str]
    images: tuple[DatasetImage, ...]
    annotations: tuple[DatasetAnnotation, ...]
    categories: tuple[CocoCategory, ...]


class SplitSummary(Document):
    """What one split holds."""

    images: int
    annotations: int
    masks_by_label: dict[str, int]


class DatasetManifest(Document):
    """dataset.json: what was given out, with the hash of every file."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    phase: str
    round: int | None
    splits: dict[str, SplitSummary]
    files: dict[str, str]
    """SHA-256 by path."""
    content_sha256: str
    """Of all file hashes: two data sets with the same one are the same."""


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the name of `folder` when all went well.

    Raises:
        ConfigError: the folder is there and not empty, or a file.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already; give the name of a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            if folder.is_dir():
                folder.rmdir()
            temporary.replace(folder)
        except OSError as problem:
            raise ConfigError(
                f"{folder} cannot be written ({problem.strerror}); give the name of a new folder"
            ) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_coco(home: Home, folder: Path, wanted: Selection) -> DatasetManifest:
    """Write a data set as COCO, a folder for each split that has a frame, and dataset.json.

    Raises:
        ConfigError: the folder is there already.
        DataError: no frame has a mask of the phase; or as `angio.datasets.frames`.
    """
    catalogue, asked = Catalogue(home), wanted.asked
    with whole_folder(folder) as place:
        summaries = {}
        for split in wanted.splits:
            drawn = frames(home, replace(wanted, splits=(split,)))
            info = {"description": f"angioloop, phase {wanted.phase.value}, split {split.value}"}
            summary = write_split(place / split.value, drawn, asked, catalogue, info)
            if summary.images:
                summaries[split.value] = summary
            else:
                shutil.rmtree(place / split.value)
        return seal(place, wanted.phase.value, wanted.round, summaries)


def write_split(
    folder: Path,
    drawn: Iterable[DrawnFrame],
    categories: Sequence[Label],
    catalogue: Catalogue,
    info: dict[str, str],
    unlooked: Callable[[DrawnFrame], Sequence[str]] = lambda _: (),
) -> SplitSummary:
    """Write images and annotations.json of one split.

    Args:
        folder: The split's folder.
        drawn: Its frames.
        categories: Labels, in order; their ids count from 1.
        catalogue: Where the pictures lie.
        info: COCO's info.
        unlooked: Labels of a frame to be marked as not looked for: an ignored annotation without
            extent.
    """
    images: list[DatasetImage] = []
    annotations: list[DatasetAnnotation] = []
    by_label = {label.name: 0 for label in categories}
    number = {label.name: position for position, label in enumerate(categories, start=1)}
    (folder / "images").mkdir(parents=True)
    for frame in drawn:
        payload = catalogue.frame_path(frame.at).read_bytes()
        (folder / "images" / frame.at.file_name).write_bytes(payload)
        image = DatasetImage(
            id=len(images) + 1,
            file_name=frame.at.file_name,
            width=frame.hw[1],
            height=frame.hw[0],
            case_id=frame.case.case_id,
            frame=frame.at.frame,
            sha256=sha256_of(payload),
            negatives=frame.similar,
            absent=frame.absent,
        )
        images.append(image)
        for one in frame.drawn:
            x1, y1, x2, y2 = one.mask.box_xyxy
            annotations.append(
                DatasetAnnotation(
                    id=len(annotations) + 1,
                    image_id=image.id,
                    category_id=number[one.label.name],
                    segmentation=CocoRle(counts=masks.to_coco_rle(one.mask), size=one.mask.hw),
                    area=float(one.mask.area_px),
                    bbox=(float(x1), float(y1), float(x2 - x1 + 1), float(y2 - y1 + 1)),
                    origin=one.origin,
                    model_id=one.model_id,
                )
            )
            by_label[one.label.name] += 1
        annotations += [
            DatasetAnnotation(
                id=len(annotations) + offset,
                image_id=image.id,
                category_id=number[name],
                segmentation=None,
                area=0.0,
                bbox=(0.0, 0.0, 0.0, 0.0),
                iscrowd=1,
            )
            for offset, name in enumerate(unlooked(frame), start=1)
        ]
    dataset = Dataset(
        info=info,
        images=tuple(images),
        annotations=tuple(annotations),
        categories=tuple(
            CocoCategory(id=number[label.name], name=label.name, supercategory=label.role)
            for label in categories
        ),
    )
    write_document(folder / "annotations.json", dataset)
    return SplitSummary(
        images=len(images), annotations=sum(by_label.values()), masks_by_label=by_label
    )


def seal(
    folder: Path, phase: str, round_: int | None, splits: dict[str, SplitSummary]
) -> DatasetManifest:
    """Write dataset.json over all files of the folder.

    Raises:
        DataError: no split holds an image.
    """
    if not any(summary.images for summary in splits.values()):
        raise DataError(
            f"no frame has a mask for phase {phase}; import or annotate some, or give another phase"
        )
    files = {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    listing = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    manifest = DatasetManifest(
        phase=phase,
        round=round_,
        splits=splits,
        files=files,
        content_sha256=sha256_of(listing.encode()),
    )
    write_document(folder / "dataset.json", manifest)
    return manifest
