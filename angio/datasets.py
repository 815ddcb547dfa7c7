"""Which frames and masks go into a data set given out, for each phase of the annotation plan.

Phase `tree`: the whole tree, also as another program drew it. Phase `segments`: CASS segments,
with the names of similar ones beside (conf/labels, `confusable`). Phase `expert`: every mask a
person drew or reviewed. Knows no file format.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from casebook import masks
from casebook.annotations import AnnotationSet, CocoAnnotation, CocoImage, Origin, read_annotations
from casebook.cases import Case, FrameRef, Split
from casebook.catalogue import Catalogue
from casebook.documents import sha256_of_file
from casebook.errors import DataError, DeidError, StateError
from casebook.home import Home
from casebook.labels import Label, LabelSet
from casebook.masks import Mask
from casebook.rounds import RoundFolder

REVIEWED = frozenset({Origin.HUMAN, Origin.HUMAN_BOX, Origin.MODEL_REVIEWED})
"""A person drew it, or completed the job it was in."""
_USABLE = frozenset({"ok", "corrected"})


class Phase(StrEnum):
    """What a data set is for."""

    TREE = "tree"
    SEGMENTS = "segments"
    EXPERT = "expert"


@dataclass(frozen=True)
class DrawnMask:
    """One mask with where it comes from."""

    label: Label
    mask: Mask
    origin: Origin
    model_id: str | None = None


@dataclass(frozen=True)
class DrawnFrame:
    """One frame of a data set."""

    case: Case
    at: FrameRef
    hw: tuple[int, int]
    drawn: tuple[DrawnMask, ...]
    similar: tuple[str, ...]
    """Hard negatives: labels confusable with those drawn, and not drawn."""
    absent: tuple[str, ...]
    """Labels known not to be in the picture: everything else was drawn."""


@dataclass(frozen=True)
class Selection:
    """What to give out."""

    phase: Phase
    labels: LabelSet
    splits: tuple[Split, ...] = (Split.TRAIN, Split.VAL, Split.TEST)
    round: int | None = None
    """Only what this round annotated; else everything that came with the cases."""
    empty: bool = False
    """Frames on which whoever looked drew nothing at all, too."""

    @property
    def asked(self) -> tuple[Label, ...]:
        """The labels of the phase, in the label set's order.

        Raises:
            DataError: the label set has none.
        """
        roles = {Phase.TREE: {"tree"}, Phase.SEGMENTS: {"segment"}}.get(self.phase)
        found = tuple(label for label in self.labels.masks if roles is None or label.role in roles)
        if not found:
            raise DataError(
                f"label set {self.labels.name!r} has no label for phase {self.phase.value}; give "
                "another phase or other --labels"
            )
        return found


def frames(home: Home, wanted: Selection) -> Iterator[DrawnFrame]:
    """The frames of a data set, ordered by case; those without a mask of the phase are left out.

    With `empty`, frames somebody looked at and drew nothing on are there without masks.

    Raises:
        DeidError: a case has no de-identification record.
        DataError: a frame has changed since the import, or a mask has an unknown label.
        StateError: the round has no annotations, or a frame is not kept.
    """
    catalogue = Catalogue(home)
    asked = wanted.asked
    for case, annotations in _sources(home, catalogue, wanted):
        for image, entries in _by_image(annotations, case):
            named = [(wanted.labels.find(annotations.label_of(one)), one) for one in entries]
            drawn = tuple(_drawn(named, image, case, wanted.phase, asked))
            if drawn or (wanted.empty and not entries):
                _check(case, image, catalogue)
                similar, absent = _negatives(drawn, named, case, wanted, asked)
                yield DrawnFrame(
                    case=case, at=image.ref, hw=(image.height, image.width), drawn=drawn,
                    similar=similar, absent=absent,
                )  # fmt: skip


def _sources(
    home: Home, catalogue: Catalogue, wanted: Selection
) -> Iterator[tuple[Case, AnnotationSet]]:
    if wanted.round is not None:
        how = f"Run `cvatsync pull --round {wanted.round}`."
        path = RoundFolder(home, wanted.round).need("annotations.coco.json", how)
        for case_id, part in sorted(_by_case(read_annotations(path)).items()):
            case = catalogue.get(case_id)
            if case.split in wanted.splits:
                yield case, part
        return
    for case in catalogue.cases():
        if case.split not in wanted.splits:
            continue
        found = catalogue.expert_annotations(case.case_id)
        if wanted.phase is Phase.TREE:
            found = catalogue.pseudo_annotations(case.case_id) or found
        if found is not None:
            yield case, found


def _by_case(annotations: AnnotationSet) -> dict[str, AnnotationSet]:
    images: dict[str, list[CocoImage]] = {}
    for image in annotations.images:
        images.setdefault(image.case_id, []).append(image)
    owner = {image.id: image.case_id for image in annotations.images}
    entries: dict[str, list[CocoAnnotation]] = {}
    for entry in annotations.annotations:
        entries.setdefault(owner[entry.image_id], []).append(entry)
    return {
        case_id: annotations.with_(images=part, annotations=entries.get(case_id, ()))
        for case_id, part in images.items()
    }


def _by_image(
    annotations: AnnotationSet, case: Case
) -> Iterator[tuple[CocoImage, tuple[CocoAnnotation, ...]]]:
    for image in annotations.images:
        if image.case_id == case.case_id and image.status in _USABLE:
            yield image, annotations.of_image(image.id)


def _drawn(
    named: Sequence[tuple[Label, CocoAnnotation]],
    image: CocoImage,
    case: Case,
    phase: Phase,
    asked: tuple[Label, ...],
) -> Iterator[DrawnMask]:
    for _, entry in named:
        if entry.segmentation.size != (image.height, image.width):
            raise DataError(
                f"{image.file_name}: a mask of {entry.segmentation.size} in an image of "
                f"{(image.height, image.width)} px; import or pull it again"
            )
    for label, entry in named:
        if label in asked and (phase is not Phase.EXPERT or entry.origin in REVIEWED):
            yield DrawnMask(label, entry.mask, entry.origin, entry.model_id)
    segments = [entry for label, entry in named if label.role == "segment"]
    has_tree = any(label in asked for label, _ in named)
    if phase is Phase.TREE and case.segment is None and segments and not has_tree:
        # Where every segment was drawn, their union is the tree.
        union = np.logical_or.reduce([masks.decode(entry.mask) for entry in segments])
        first = segments[0]
        yield DrawnMask(asked[0], masks.encode(union), first.origin, first.model_id)


def _negatives(
    drawn: tuple[DrawnMask, ...],
    named: Sequence[tuple[Label, CocoAnnotation]],
    case: Case,
    wanted: Selection,
    asked: tuple[Label, ...],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    present = {label.name for label, _ in named}
    missing = [label for label in asked if label.name not in present]
    close = {wanted.labels.find(name).name for one in drawn for name in one.label.confusable}
    similar = tuple(label.name for label in missing if label.name in close)
    if wanted.phase is Phase.TREE or case.segment is not None:
        return similar, ()
    absent = tuple(label.name for label in missing if label.role in {"segment", "object"})
    return similar, absent


def _check(case: Case, image: CocoImage, catalogue: Catalogue) -> None:
    if case.deid is None:
        raise DeidError(
            f"case {case.case_id} has no de-identification record; nothing was given out. "
            "Import it again"
        )
    path = catalogue.frame_path(image.ref)
    if not path.exists():
        raise StateError(f"frame {image.frame} of case {case.case_id} is not kept; import it again")
    if image.frame == case.frame and sha256_of_file(path) != case.image_sha256:
        raise DataError(
            f"frame {image.frame} of case {case.case_id} has changed since the import; import it "
            "again"
        )
