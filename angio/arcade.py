"""ARCADE, the public set of annotated angiograms, as cases.

Its SYNTAX segments are mapped to CASS names; it has no patient ids, so the split is by image.
Source: Popov et al., Scientific Data 11, 20 (2024), doi 10.1038/s41597-023-02871-z.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image
from skimage.draw import polygon2mask

from angio.deident import keyed
from angio.intake import ImportReport, Incoming, Pictures, Progress, key_for, take_in
from casebook.annotations import AnnotationSet, AnnotationSetBuilder, Origin
from casebook.cases import Case, DeidRecord, Split
from casebook.errors import ConfigError, DataError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.masks import encode

Task = Literal["syntax", "stenosis"]

CASS_OF_SYNTAX: dict[str, int] = {
    "1": 1, "2": 2, "3": 3, "4": 4, "5": 11, "6": 12, "7": 13, "8": 14, "9": 15, "10": 16, "11": 18,
    "13": 19, "12": 28, "12a": 20, "12b": 21, "14": 24, "14a": 25, "14b": 26, "15": 27, "16": 5,
    "16a": 6, "16b": 7, "16c": 8,
}  # fmt: skip
"""SYNTAX segment to CASS number."""
NAMED: dict[str, str] = {"9a": "diagonal 9a", "10a": "diagonal 10a", "stenosis": "stenosis"}
"""Categories CASS has no single number for, by label name."""

DEID = DeidRecord(method="public data set, de-identified by its authors", pixel_text="ruled clean")
ROUND_1 = 1


@dataclass(frozen=True)
class ArcadeImage:
    """One picture with its polygons, by category name."""

    split: str
    """As the data set calls it."""
    path: Path
    hw: tuple[int, int]
    polygons: tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]

    def masks(self, labels: LabelSet) -> dict[str, Bool[np.ndarray, "h w"]]:
        """Masks by label name; polygons of one label are united.

        Raises:
            DataError: a category the labels do not have.
        """
        found: dict[str, Bool[np.ndarray, "h w"]] = {}
        for category, rings in self.polygons:
            name = label_name(category, labels)
            bitmap = found.setdefault(name, np.zeros(self.hw, dtype=bool))
            for ring in rings:
                corners = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
                bitmap |= np.asarray(polygon2mask(self.hw, corners[:, ::-1]), dtype=bool)
        return {name: bitmap for name, bitmap in found.items() if bitmap.any()}


def label_name(category: str, labels: LabelSet) -> str:
    """The label an ARCADE category stands for.

    Raises:
        DataError: it is none, or the label set lacks it.
    """
    code = CASS_OF_SYNTAX.get(category)
    if code is None and category not in NAMED:
        raise DataError(f"ARCADE category {category!r} is unknown; expected 1 to 16c or stenosis")
    if code is None:
        return labels.find(NAMED[category]).name
    for label in labels.of_role("segment"):
        if label.code == code:
            return label.name
    raise DataError(f"label set {labels.name!r} has no CASS {code}; use conf/labels/arcade.yaml")


def read_arcade(root: Path, task: Task = "syntax") -> list[ArcadeImage]:
    """All pictures of a task, by split and number.

    Args:
        root: The folder with `syntax/`, or that task's own folder.
        task: Which of the two tasks.

    Raises:
        DataError: the layout is not ARCADE's, or an annotation file is damaged.
    """
    folder = root / task if (root / task).is_dir() else root
    files = sorted(folder.glob("*/annotations/*.json"))
    if not files:
        raise DataError(
            f"{root} has no {task}/<split>/annotations/<split>.json; give ARCADE's folder"
        )
    images: list[ArcadeImage] = []
    for file in files:
        images += _read_split(file)
    return images


def _read_split(file: Path) -> Iterator[ArcadeImage]:
    split = file.parent.parent.name
    try:
        payload: dict[str, Any] = json.loads(file.read_bytes())
        categories = {entry["id"]: str(entry["name"]) for entry in payload["categories"]}
        polygons: dict[int, list[tuple[str, tuple[tuple[float, ...], ...]]]] = {}
        for entry in payload["annotations"]:
            rings = tuple(
                tuple(float(value) for value in ring)
                for ring in entry["segmentation"]
                if len(ring) >= 6
            )
            polygons.setdefault(entry["image_id"], []).append(
                (categories[entry["category_id"]], rings)
            )
        for image in sorted(payload["images"], key=lambda image: int(image["id"])):
            yield ArcadeImage(
                split=split,
                path=file.parent.parent / "images" / Path(str(image["file_name"])).name,
                hw=(int(image["height"]), int(image["width"])),
                polygons=tuple(polygons.get(image["id"], ())),
            )
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DataError(f"{file.name} is not ARCADE's COCO ({problem!r}); download again") from None


def case_id_of(task: Task, split: str, stem: str) -> str:
    """Id of an ARCADE picture's case."""
    return f"arcade-{task}-{split}-{stem}"


def expert_masks(
    images: list[ArcadeImage], labels: LabelSet, task: Task = "syntax"
) -> dict[str, dict[str, Bool[np.ndarray, "h w"]]]:
    """What ARCADE's annotators drew, by case id and label name, the whole tree included."""
    found = {}
    for image in images:
        masks = image.masks(labels)
        found[case_id_of(task, image.split, image.path.stem)] = _with_tree(masks, labels)
    return found


def _with_tree(
    masks: dict[str, Bool[np.ndarray, "h w"]], labels: LabelSet
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """Masks by label, and the union of the segments under the tree's name."""
    segments = {label.name for label in labels.of_role("segment")}
    drawn = [bitmap for name, bitmap in masks.items() if name in segments]
    trees = labels.of_role("tree")
    if not drawn or not trees:
        return masks
    return {**masks, trees[0].name: np.logical_or.reduce(drawn)}


def import_arcade(
    root: Path,
    home: Home,
    labels: LabelSet,
    *,
    task: Task = "syntax",
    bootstrap: int = 50,
    val: int = 25,
    split_map: Mapping[str, str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import ARCADE for a walk of several rounds.

    Of the train pictures, in an order by keyed hash, the first `bootstrap` come with annotations
    for round 1, the next `val` become validation cases with annotations, and the rest comes
    without: experts draw it later.

    Args:
        root: ARCADE's folder.
        home: The workspace.
        labels: conf/labels/arcade.yaml, usually.
        task: Which of the two tasks.
        bootstrap: Annotated training cases of round 1.
        val: Validation cases taken from train.
        split_map: What the data set's other splits become, for instance val to test.
        dry_run: Check everything, write nothing.
        progress: Told how many pictures of how many are done.

    Raises:
        DataError: the folder is not ARCADE.
        ConfigError: more is asked for than there is, or a split is mapped to none of ours.
    """
    images = read_arcade(root, task)
    key = key_for(home, dry_run=dry_run)
    train = sorted(
        (image for image in images if image.split == "train"),
        key=lambda image: keyed(key, "arcade", image.path.stem),
    )
    if bootstrap + val > len(train):
        raise ConfigError(
            f"--bootstrap {bootstrap} and --val {val} need {bootstrap + val} train pictures; there "
            f"are {len(train)}"
        )
    plan: list[tuple[ArcadeImage, Split, int | None]] = [
        (image, Split.TRAIN, ROUND_1) for image in train[:bootstrap]
    ]
    plan += [(image, Split.VAL, None) for image in train[bootstrap : bootstrap + val]]
    plan += [(image, Split.TRAIN, None) for image in train[bootstrap + val :]]
    annotated = {image.path for image, split, number in plan if number or split is Split.VAL}
    for image in images:
        if image.split != "train":
            plan.append((image, _mapped(image.split, split_map or {}), None))
            annotated.add(image.path)

    def cases() -> Iterator[tuple[str, Callable[[], Incoming]]]:
        for image, split, number in plan:
            reading = partial(
                _read_image, image, labels, task, split, number, image.path in annotated
            )
            yield f"{image.split}/{image.path.name}", reading

    note = "ARCADE has no patient ids: the split is by image, not by patient"
    return take_in(
        home, "arcade", cases(), total=len(plan), notes=[note], dry_run=dry_run, progress=progress
    )


def _mapped(split: str, split_map: Mapping[str, str]) -> Split:
    name = split_map.get(split, split)
    try:
        return Split(name)
    except ValueError:
        raise ConfigError(
            f"split {split!r} becomes {name!r}; expected train, val or test; see --split-map"
        ) from None


def _read_image(
    image: ArcadeImage,
    labels: LabelSet,
    task: Task,
    split: Split,
    number: int | None,
    annotated: bool,
) -> Incoming:
    try:
        with Image.open(image.path) as picture:
            pixels = np.array(picture.convert("L"), dtype=np.uint8)
    except FileNotFoundError:
        raise DataError("the picture is not there; complete the download") from None
    except (OSError, ValueError) as problem:
        raise DataError(f"the picture cannot be read ({type(problem).__name__})") from None
    if pixels.shape != image.hw:
        raise DataError(f"the picture is {pixels.shape} px; its annotations say {image.hw}")
    pictures = Pictures(None)
    pictures.add(0, pixels, None, ruled_clean=True)
    case_id = case_id_of(task, image.split, image.path.stem)
    case = Case(
        case_id=case_id,
        patient=case_id,
        split=split,
        source="arcade",
        frame=0,
        n_frames=1,
        stored_frames=(0,),
        height_px=image.hw[0],
        width_px=image.hw[1],
        round=number,
        image_sha256=pictures.sha256(0),
        deid=DEID,
    )
    drawn = _annotations(image, case, labels) if annotated else None
    return Incoming(case, pictures.frames, {}, drawn)


def _annotations(image: ArcadeImage, case: Case, labels: LabelSet) -> AnnotationSet:
    builder = AnnotationSetBuilder(labels, {"source": "ARCADE"})
    number = builder.add_image(case.ref, image.hw, status="ok")
    masks = image.masks(labels)
    if not masks:
        raise DataError("the picture has no usable polygon; leave it out")
    for name, bitmap in _with_tree(masks, labels).items():
        attributes = {} if name in masks else {"derived": "union of the segments"}
        builder.add_mask(number, name, encode(bitmap), Origin.HUMAN, attributes=attributes)
    return builder.build()
