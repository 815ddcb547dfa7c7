"""A data set for nnU-Net v2: pictures and label pictures in its folders, and our own split.

Pictures are the catalogue's frames as they are, their spacing in the text chunks; nnU-Net's reader
of pictures counts in px. A label picture has one number a pixel, and what is not drawn is
background: frames of which one segment alone was analysed are left out unless asked for, those a
round found empty are taken. Knows no training.
Source: MIC-DKFZ/nnUNet, documentation/dataset_format.md and nnUNetTrainer.do_split.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field

from angio.coco_files import whole_folder
from angio.datasets import DrawnFrame, Phase, Selection, frames
from casebook import masks
from casebook.cases import CaseId, FrameRef, PixelSpacing, Split
from casebook.catalogue import Catalogue, png_bytes
from casebook.documents import Document, sha256_of, sha256_of_file, write_bytes, write_document
from casebook.errors import ConfigError, DataError
from casebook.home import Home
from casebook.labels import Label

READER = "NaturalImage2DIO"
"""nnU-Net's reader of pictures, which `segmenter.nnunet_weights` expects of a trained model."""
SPLITS, MANIFEST = "splits_final.json", "angioloop.json"
PREPROCESSED = "nnUNet_preprocessed"
"""The variable that names nnU-Net's folder of prepared data sets; there it looks for a split."""
_NAME = re.compile(r"^Dataset(?P<number>\d{3})_[A-Za-z0-9_-]+$")
_FOLDERS = {Split.TRAIN: "Tr", Split.VAL: "Tr", Split.TEST: "Ts"}
"""Validation cases lie beside the training cases; the split tells them apart."""
_OVER = {"tree": 0, "lesion": 2}
"""What is painted over what: a lesion lies in a segment, and both in the tree."""
_MOST_LABELS = 255


class NnunetPicture(Document):
    """One picture of the data set."""

    name: str
    """nnU-Net's own name of it."""
    case_id: CaseId
    frame: int
    split: Split
    spacing: PixelSpacing | None


class NnunetManifest(Document):
    """angioloop.json: what was given out, with the hash of every file."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    dataset: str
    phase: str
    round: int | None
    labels: dict[str, int]
    """Numbers in the label pictures; 0 is the background."""
    pictures: tuple[NnunetPicture, ...]
    left_out: int
    """Frames of which one segment alone was analysed."""
    overlaps_px: int
    """Pixels that two labels claimed: lesions win over segments, both over the tree, else the
    higher number."""
    files: dict[str, str]
    """SHA-256 by path."""
    content_sha256: str

    def count(self, split: Split) -> int:
        """Pictures of a split."""
        return sum(picture.split is split for picture in self.pictures)

    @property
    def commands(self) -> tuple[str, ...]:
        """What trains on it and takes the result over, in order."""
        number = int(self.dataset[7:10])
        results = f"$nnUNet_results/{self.dataset}/nnUNetTrainer__nnUNetPlans__2d"
        return (
            f"nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity",
            f"nnUNetv2_train {number} 2d 0",
            f"python -m segmenter.nnunet_weights --trained {results}",
        )


@dataclass
class _Told:
    """What is found while pictures are written."""

    pictures: list[NnunetPicture] = field(default_factory=list)
    splits: dict[str, Split] = field(default_factory=dict)
    """By patient."""
    drawn: set[Split] = field(default_factory=set)
    """Splits with a mask."""
    left_out: int = 0
    overlaps_px: int = 0


def write_nnunet(
    home: Home,
    folder: Path,
    wanted: Selection,
    *,
    partial: bool = False,
    preprocessed: Path | None = None,
) -> NnunetManifest:
    """Write imagesTr, labelsTr, imagesTs, labelsTs, dataset.json and splits_final.json.

    Args:
        home: The workspace.
        folder: A new folder, named as nnU-Net wants it: Dataset501_vessels.
        wanted: What is drawn; a round's training frames, then validation and test cases are the
            catalogue's.
        partial: Frames of which one segment alone was analysed, too.
        preprocessed: nnU-Net's folder of prepared data sets: it gets the split as well, since
            nnU-Net makes one of its own, across patients, where it finds none.

    Raises:
        ConfigError: the folder has another kind of name or is there already, or another split is.
        DataError: no training or no validation frame is left, a label cannot be numbered, or a
            patient is in two splits; or as `angio.datasets.frames`.
    """
    if _NAME.match(folder.name) is None:
        raise ConfigError(
            f"--out ends in {folder.name!r}; nnU-Net expects Dataset, three digits, _ and a name: "
            "give for instance nnUNet_raw/Dataset501_vessels"
        )
    numbers = _numbers(wanted.asked)
    catalogue, told = Catalogue(home), _Told()
    with whole_folder(folder) as place:
        for split, ending in _FOLDERS.items():
            number = wanted.round if split is Split.TRAIN else None
            drawn = frames(home, replace(wanted, splits=(split,), round=number, empty=True))
            takes_all = partial or wanted.phase is Phase.TREE  # of a tree, all is drawn
            _write_split(place, ending, drawn, numbers, catalogue, told, partial=takes_all)
            if split is not Split.TEST:
                _require(told, split, wanted)
        chosen = {
            split.value: [one.name for one in told.pictures if one.split is split]
            for split in (Split.TRAIN, Split.VAL)
        }
        splits = json.dumps([chosen], indent=1).encode()
        target = None if preprocessed is None else preprocessed / folder.name / SPLITS
        if target is not None and target.exists() and target.read_bytes() != splits:
            raise ConfigError(
                f"{target} is another split than this one; remove it and what was prepared with "
                "it, or give the data set another number"
            )
        write_bytes(place / SPLITS, splits)
        write_bytes(place / "dataset.json", _dataset(numbers, chosen))
        manifest = _sealed(place, folder.name, wanted, numbers, told)
        if target is not None:
            write_bytes(target, splits)
    return manifest


def preprocessed_folder() -> Path | None:
    """Where nnU-Net keeps prepared data sets on this machine, if its variable says so."""
    named = os.environ.get(PREPROCESSED)
    return Path(named) if named else None


def _numbers(asked: tuple[Label, ...]) -> dict[str, int]:
    """The number of each label, from 1."""
    if len(asked) > _MOST_LABELS or any(label.name == "background" for label in asked):
        raise DataError(
            f"{len(asked)} labels, or one of them is called background; expected at most "
            f"{_MOST_LABELS} others, as 0 is the background. Give another --phase or --labels"
        )
    return {label.name: number for number, label in enumerate(asked, start=1)}


def _name(at: FrameRef) -> str:
    """A frame's name without the dots, which nnU-Net might take for the start of a suffix."""
    return f"{at.case_id}_f{at.frame:05d}"


def _write_split(
    place: Path,
    ending: str,
    drawn: Iterable[DrawnFrame],
    numbers: dict[str, int],
    catalogue: Catalogue,
    told: _Told,
    *,
    partial: bool,
) -> None:
    """Write the pictures of a split, and what is drawn on them.

    Args:
        partial: Whether frames of which one segment alone was analysed are taken.
    """
    for kind in ("images", "labels"):
        (place / f"{kind}{ending}").mkdir(exist_ok=True)
    for frame in drawn:
        case = frame.case
        if case.segment is not None and not partial:
            told.left_out += 1
            continue
        if told.splits.setdefault(case.patient, case.split) is not case.split:
            raise DataError(
                f"patient {case.patient} is in {told.splits[case.patient].value} and in "
                f"{case.split.value} (case {case.case_id}), expected in one of them; `casebook "
                "check` lists all such, take the cases out of one"
            )
        if frame.drawn:
            told.drawn.add(case.split)
        values, overlaps_px = _painted(frame, numbers)
        told.overlaps_px += overlaps_px
        name = _name(frame.at)
        picture = catalogue.frame_path(frame.at).read_bytes()
        (place / f"images{ending}" / f"{name}_0000.png").write_bytes(picture)
        (place / f"labels{ending}" / f"{name}.png").write_bytes(png_bytes(values))
        told.pictures.append(
            NnunetPicture(
                name=name,
                case_id=case.case_id,
                frame=frame.at.frame,
                split=case.split,
                spacing=case.spacing,
            )
        )


def _painted(frame: DrawnFrame, numbers: dict[str, int]) -> tuple[UInt8[np.ndarray, "h w"], int]:
    """The label picture of a frame, and how many pixels two labels claimed."""
    values = np.zeros(frame.hw, dtype=np.uint8)
    overlaps_px = 0
    order = sorted(
        frame.drawn, key=lambda one: (_OVER.get(one.label.role, 1), numbers[one.label.name])
    )
    for one in order:
        bitmap, number = masks.decode(one.mask), numbers[one.label.name]
        overlaps_px += int(((values != 0) & (values != number) & bitmap).sum())
        values[bitmap] = number
    return values, overlaps_px


def _require(told: _Told, split: Split, wanted: Selection) -> None:
    """Refuse a data set without training or validation masks."""
    if split in told.drawn:
        return
    left = (
        f"; {told.left_out} were left out, since of each one segment alone was analysed: --partial "
        f"takes them, --phase {Phase.TREE.value} asks for whole trees"
        if told.left_out
        else ""
    )
    raise DataError(
        f"no {split.value} frame has masks for phase {wanted.phase.value}; nnU-Net needs train and "
        f"val. Import or annotate some, or give another phase{left}"
    )


def _dataset(numbers: dict[str, int], chosen: dict[str, list[str]]) -> bytes:
    """nnU-Net's dataset.json."""
    document = {
        "channel_names": {"0": "grey"},
        "labels": {"background": 0, **numbers},
        "numTraining": sum(len(names) for names in chosen.values()),
        "file_ending": ".png",
        "overwrite_image_reader_writer": READER,
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _sealed(
    place: Path, name: str, wanted: Selection, numbers: dict[str, int], told: _Told
) -> NnunetManifest:
    files = {
        path.relative_to(place).as_posix(): sha256_of_file(path)
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }
    listing = "".join(f"{digest}  {path}\n" for path, digest in files.items())
    manifest = NnunetManifest(
        dataset=name,
        phase=wanted.phase.value,
        round=wanted.round,
        labels=numbers,
        pictures=tuple(told.pictures),
        left_out=told.left_out,
        overlaps_px=told.overlaps_px,
        files=files,
        content_sha256=sha256_of(listing.encode()),
    )
    write_document(place / MANIFEST, manifest)
    return manifest
