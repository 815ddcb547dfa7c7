"""COCO data sets as cases: polygons, run lengths in both forms, crowds and boxes.

Source: cocodataset.org, "Data format"; cocoapi, PythonAPI/pycocotools/coco.py annToRLE.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from angio.intake import ImportProblem, ImportReport, Incoming, Progress, key_for, take_in
from angio.json_files import read_json
from angio.picture_files import read_picture
from angio.plain_cases import Boxed, Drawn, Plain, Source, checked_box
from angio.review import Desk
from angio.roster import read_roster
from angio.source_files import below
from casebook.cases import Split
from casebook.errors import DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.masks import decode, from_coco_rle
from casebook.polygons import from_coco_parts

BOX_AGREES_PX = 4.0
BOX_AGREES_SHARE = 0.1
"""How far a mask's box may lie from the `bbox` beside it, in px or as a share of its size."""
FILE = "the COCO file"
PICTURE = "the picture"

_Id = Annotated[int, Field(strict=True, ge=0, le=2**53)]
_Px = Annotated[float, Field(strict=True, ge=-1e5, le=1e5)]
_Side = Annotated[int, Field(strict=True, ge=1, le=100_000)]


class _Theirs(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Rle(_Theirs):
    counts: str | list[Annotated[int, Field(strict=True, ge=0)]]
    size: tuple[_Side, _Side]


class _Category(_Theirs):
    id: _Id
    name: str


class _Image(_Theirs):
    id: _Id
    file_name: str
    height: _Side
    width: _Side


class _Annotation(_Theirs):
    id: _Id = 0
    image_id: _Id
    category_id: _Id
    segmentation: list[list[_Px]] | _Rle | None = None
    bbox: tuple[_Px, _Px, _Px, _Px] | None = None
    iscrowd: Literal[0, 1] = 0

    def bitmap(self, hw: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
        """The mask; nothing when there is only a box.

        Raises:
            DataError: the segmentation is damaged, of another image, or far from its `bbox`.
        """
        if not self.segmentation:
            return None
        if isinstance(self.segmentation, _Rle):
            if self.segmentation.size != hw:
                raise DataError(
                    f"annotation {self.id} has run lengths of {self.segmentation.size} px; its "
                    f"picture has {hw}; export it again"
                )
            bitmap = decode(from_coco_rle(self.segmentation.counts, hw))
        else:
            corners = np.concatenate([np.asarray(part, dtype=float) for part in self.segmentation])
            limit = max(hw) + BOX_AGREES_PX
            if corners.size and (corners.min() < -BOX_AGREES_PX or corners.max() > limit):
                raise DataError(
                    f"annotation {self.id} leaves its picture of {hw} px; correct its polygon"
                )
            bitmap = from_coco_parts(self.segmentation, hw)
        self._check_box(bitmap)
        return bitmap

    def _check_box(self, bitmap: Bool[np.ndarray, "h w"]) -> None:
        if not bitmap.any():
            raise DataError(f"annotation {self.id} holds no pixel; correct it or take it out")
        if self.bbox is None:
            return
        rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        x, y, width, height = self.bbox
        allowed = max(BOX_AGREES_PX, BOX_AGREES_SHARE * max(width, height))
        apart = np.abs(np.subtract(found, (x, y, x + width, y + height)))
        if apart.max() > allowed:
            raise DataError(
                f"annotation {self.id} has its bbox {apart.max():.0f} px away from its "
                "segmentation; one of them is wrong; correct it"
            )


class _File(_Theirs):
    categories: list[_Category]
    images: list[Any]
    annotations: list[Any]


def import_coco(
    path: Path,
    home: Home,
    labels: LabelSet,
    *,
    images: Path | None = None,
    split: Split | None = None,
    patients: Path | None = None,
    skip: Sequence[str] = (),
    ruled_clean: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a COCO file with its pictures.

    A picture comes in with the masks drawn on it, as one case; each annotation that is only a box
    becomes a case of its own with the box as prompt; a picture without annotations comes in
    without any.

    Args:
        path: The COCO file.
        home: The workspace.
        labels: What the categories are mapped to, by name or alias.
        images: Folder of the pictures; else `images/` beside the file, else the file's own folder.
        split: The split of the whole file; else by patient or picture.
        patients: A table of patients (angio/roster.py).
        skip: Categories to leave out.
        ruled_clean: A person has looked: no picture carries text.
        dry_run: Check everything, write nothing.
        progress: Told how many pictures of how many are done.

    Raises:
        DataError: the file is not COCO, or a category is no label.
    """
    found = _read(path)
    names = _names(found.categories, labels, skip)
    beside = path.parent / "images"
    folder = images or (beside if beside.is_dir() else path.parent)
    key = key_for(home, dry_run=dry_run)
    source = Source(
        "coco", "k", labels, read_roster(patients, key, split), Desk.open(home, dry_run=dry_run),
        ruled_clean,
    )  # fmt: skip
    drawn, problems = _by_image(found)
    numbers = Counter(_number(entry) for entry in found.images)
    notes = [source.roster.note]
    bare = sum(1 for number in numbers if not drawn.get(number))
    notes += [f"{bare} pictures have no annotation; they come in without"] * bool(bare)

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for position, entry in enumerate(found.images, start=1):
            number = _number(entry)
            where = f"image id {number}" if number is not None else f"image {position} of the list"
            reading = partial(
                _read_image, entry, drawn.get(number, []), names, folder, source,
                repeated=numbers[number] > 1,
            )  # fmt: skip
            boxes = _boxes(drawn.get(number, []), names)
            if _has_mask(drawn.get(number, [])) or not boxes:
                yield where, partial(reading, box=None)
            for box in boxes:
                yield f"{where}, annotation {box}", partial(reading, box=box)

    return take_in(
        home, "coco", cases(), total=len(found.images), notes=notes, problems=problems,
        dry_run=dry_run, progress=progress,
    )  # fmt: skip


def _read(path: Path) -> _File:
    payload = read_json(path, FILE)
    try:
        return _File.model_validate(payload)
    except ValidationError as problem:
        fields = sorted({".".join(str(part) for part in e["loc"][:1]) for e in problem.errors()})
        raise DataError(
            f"{FILE} is not COCO ({', '.join(fields) or 'no object'}); expected images, "
            "annotations and categories; export it again"
        ) from None


def annotations_of_file(path: Path) -> tuple[list["_Annotation"], int]:
    """The readable annotations of a COCO file, and how many are damaged or of no image.

    Raises:
        DataError: the file is not COCO.
    """
    drawn, problems = _by_image(_read(path))
    found = [one for entries in drawn.values() for one in entries]
    readable = [one for one in found if isinstance(one, _Annotation)]
    return readable, len(found) - len(readable) + len(problems)


def _names(
    categories: Sequence[_Category], labels: LabelSet, skip: Sequence[str]
) -> dict[int, str | None]:
    """Label by category id; nothing for what is left out.

    Raises:
        DataError: categories that are no labels, all of them, or an id given twice.
    """
    names: dict[int, str | None] = {}
    unknown = []
    for category in categories:
        if category.id in names:
            raise DataError(f"{FILE} gives category id {category.id} twice; make ids unique")
        names[category.id] = None
        if category.name in skip:
            continue
        try:
            label = labels.find(category.name)
        except DataError:
            unknown.append(category.name)
            continue
        if label.kind != "mask":
            unknown.append(category.name)
        names[category.id] = label.name
    if unknown:
        raise DataError(
            f"{FILE} has categories {', '.join(repr(name) for name in sorted(unknown))}, which are "
            f"no labels of {labels.name!r}; add them or an alias to the label file, or leave them "
            "out with --skip"
        )
    return names


def _number(entry: object) -> int | None:
    number = entry.get("id") if isinstance(entry, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _by_image(
    found: _File,
) -> tuple[dict[int | None, list[_Annotation | str]], list[ImportProblem]]:
    """Annotations by image id, damaged ones as what is wrong with them; and those of no image."""
    known = {_number(entry) for entry in found.images}
    drawn: dict[int | None, list[_Annotation | str]] = {}
    problems = []
    for position, entry in enumerate(found.annotations, start=1):
        of = entry.get("image_id") if isinstance(entry, dict) else None
        try:
            annotation: _Annotation | str = _Annotation.model_validate(entry)
        except ValidationError as problem:
            fields = sorted({str(e["loc"][0]) if e["loc"] else "all" for e in problem.errors()})
            annotation = f"annotation {position} of the list: {', '.join(fields)} unusable"
        if isinstance(of, int) and of in known:
            drawn.setdefault(of, []).append(annotation)
        else:
            problems.append(
                ImportProblem(
                    where=f"annotation {position} of the list",
                    message="belongs to no image of the file; correct image_id",
                )
            )
    return drawn, problems


def _has_mask(drawn: Sequence["_Annotation | str"]) -> bool:
    return any(isinstance(one, str) or one.segmentation for one in drawn)


def _boxes(drawn: Sequence["_Annotation | str"], names: dict[int, str | None]) -> list[int]:
    """Positions of the annotations that are only a box."""
    return [
        position
        for position, one in enumerate(drawn)
        if isinstance(one, _Annotation)
        and not one.segmentation
        and names.get(one.category_id, "") is not None
    ]


def _read_image(
    entry: object,
    annotations: Sequence["_Annotation | str"],
    names: dict[int, str | None],
    folder: Path,
    source: Source,
    *,
    repeated: bool,
    box: int | None,
) -> Incoming:
    try:
        image = _Image.model_validate(entry)
    except ValidationError as problem:
        fields = sorted({str(e["loc"][0]) if e["loc"] else "all" for e in problem.errors()})
        raise DataError(f"its entry: {', '.join(fields)} unusable; correct it") from None
    if repeated:
        raise DataError("its id is given twice; make ids unique")
    for one in annotations:
        if isinstance(one, str):
            raise DataError(f"{one}; correct it")
        if one.category_id not in names:
            raise DataError(f"annotation {one.id} has category {one.category_id}, which is not one")
    pixels, stored = read_picture(below(folder, image.file_name), PICTURE)
    hw = (image.height, image.width)
    if pixels.shape != hw:
        raise DataError(f"{PICTURE} is {pixels.shape} px; its entry says {hw}; export it again")
    drawn = [one for one in annotations if isinstance(one, _Annotation)]
    name = image.file_name.replace("\\", "/")
    if box is not None:
        return source.incoming(Plain(name, pixels, stored, box=_boxed(drawn[box], names, hw)))
    return source.incoming(Plain(name, pixels, stored, tuple(_drawn(drawn, names, hw))))


def _boxed(one: _Annotation, names: dict[int, str | None], hw: tuple[int, int]) -> Boxed:
    label = names[one.category_id]
    if one.bbox is None or label is None:
        raise DataError(f"annotation {one.id} has neither segmentation nor bbox; take it out")
    x, y, width, height = one.bbox
    return Boxed(label, checked_box((x, y, x + width, y + height), hw))


def _drawn(
    annotations: Sequence[_Annotation], names: dict[int, str | None], hw: tuple[int, int]
) -> Iterator[Drawn]:
    for one in annotations:
        label = names[one.category_id]
        bitmap = one.bitmap(hw) if label is not None else None
        if label is not None and bitmap is not None:
            yield Drawn(label, bitmap, (("crowd", "1"),) if one.iscrowd else ())
