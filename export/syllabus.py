"""What a student is taught from: frames of the case book with expert masks, and which are frozen.

Knows rounds and labels, but no model.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from casebook import masks
from casebook.annotations import AnnotationSet, CocoImage, Origin, read_annotations
from casebook.cases import Case, FrameRef, Split
from casebook.catalogue import Catalogue
from casebook.errors import StateError
from casebook.home import Home
from casebook.labels import LabelSet
from casebook.rounds import Manifest, RoundFolder

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """One expert mask."""

    label: str
    role: str
    mask: masks.Mask
    is_reviewed: bool
    """Drawn or reviewed by a person; otherwise another program's."""

    @property
    def bitmap(self) -> Bool[np.ndarray, "h w"]:
        """The mask's pixels."""
        return masks.decode(self.mask)

    @property
    def box(self) -> Box:
        """The box around it, px."""
        x1, y1, x2, y2 = masks.box_of(self.bitmap)
        return float(x1), float(y1), float(x2), float(y2)


@dataclass(frozen=True)
class Page:
    """One frame to learn from."""

    ref: FrameRef
    drawn: tuple[Drawn, ...] = ()
    """Empty on frames only the teacher explains …"""
    boxes: tuple[Box, ...] = ()
    """… which are asked for in these boxes."""
    analysed: str | None = None
    """The one segment that was analysed, in data where nothing else is drawn."""

    @property
    def prompted(self) -> tuple[Drawn, ...]:
        """The masks a box asks for: everything but whole trees and lesion candidates."""
        return tuple(one for one in self.drawn if one.role not in ("tree", "lesion"))

    @property
    def prompted_boxes(self) -> tuple[Box, ...]:
        """Their boxes."""
        return tuple(one.box for one in self.prompted)

    @property
    def tree(self) -> tuple[Drawn, ...]:
        """The masks that make up the tree: as drawn, else all segments where all are drawn."""
        drawn = tuple(one for one in self.drawn if one.role == "tree")
        if drawn or self.analysed is not None:
            return drawn
        return tuple(one for one in self.drawn if one.role == "segment")

    @property
    def lesions(self) -> tuple[Drawn, ...]:
        """The lesion candidates: as drawn, else the analysed segment, which holds the lesion."""
        drawn = tuple(one for one in self.drawn if one.role == "lesion")
        return drawn or tuple(one for one in self.drawn if one.label == self.analysed)


@dataclass(frozen=True)
class Syllabus:
    """All frames of a distillation."""

    labels: LabelSet
    pages: tuple[Page, ...]
    val: tuple[Page, ...]
    """Frozen validation frames: never learnt from, they decide on the release."""


def _drawn(annotations: AnnotationSet, image: CocoImage, labels: LabelSet) -> tuple[Drawn, ...]:
    found = []
    for entry in annotations.of_image(image.id):
        if entry.origin is Origin.MODEL:
            continue
        label = labels.find(annotations.label_of(entry))
        found.append(Drawn(label.name, label.role, entry.mask, entry.origin is not Origin.PSEUDO))
    return tuple(found)


def _manifests(home: Home) -> list[RoundFolder]:
    folders = []
    number = 1
    while (folder := RoundFolder(home, number)).has("manifest.json"):
        folders.append(folder)
        number += 1
    return folders


def _learnt(home: Home, catalogue: Catalogue, labels: LabelSet) -> Iterator[Page]:
    """Frames of all rounds whose annotations are sealed; rejected frames teach nothing."""
    for folder in _manifests(home):
        if not folder.has("annotations.coco.json"):
            continue
        annotations = read_annotations(folder.file("annotations.coco.json"))
        for image in annotations.images:
            if image.status == "rejected":
                continue
            drawn = _drawn(annotations, image, labels)
            if drawn:
                yield Page(image.ref, drawn, analysed=catalogue.get(image.case_id).segment)


def _frozen(catalogue: Catalogue, manifest: Manifest, labels: LabelSet) -> Iterator[Page]:
    for case in manifest.val:
        annotations = catalogue.expert_annotations(case.at.case_id)
        if annotations is None:
            continue
        for image in annotations.images:
            if image.ref == case.at and image.status != "rejected":
                yield Page(image.ref, _drawn(annotations, image, labels))


def _neighbours(case: Case, count: int) -> list[int]:
    """The stored frames nearest to the annotated one."""
    others = sorted(
        (frame for frame in case.stored_frames if frame != case.frame),
        key=lambda frame: (abs(frame - case.frame), frame),
    )
    return others[:count]


def read_syllabus(home: Home, *, neighbours: int, unannotated: int) -> Syllabus:
    """Everything the case book has to teach from.

    Args:
        home: the workspace.
        neighbours: unlabelled frames of each annotated cine, at most.
        unannotated: training cases without annotations, at most.

    Raises:
        StateError: no round has annotations yet.
        DataError: a case of another split is among those to learn from.
    """
    folders = _manifests(home)
    if not folders:
        raise StateError("no round has a manifest; run `make train ROUND=1` first")
    manifest = folders[-1].manifest()
    labels = manifest.labels
    manifest.check_leaks()
    catalogue = Catalogue(home)
    pages = list(_learnt(home, catalogue, labels))
    if not pages:
        raise StateError("no round has annotations; run `make train ROUND=1` first")
    annotated = {page.ref.case_id for page in pages}
    frozen = {case.at.case_id for case in (*manifest.val, *manifest.test)}
    pages = [page for page in pages if page.ref.case_id not in frozen]
    extra: list[Page] = []
    others = 0
    for case in catalogue.cases(split=Split.TRAIN):
        if case.case_id in frozen:
            continue
        if case.case_id in annotated:
            page = next(page for page in pages if page.ref.case_id == case.case_id)
            boxes = page.prompted_boxes
        elif case.lesion_box_xyxy is not None and others < unannotated:
            boxes = (case.lesion_box_xyxy,)
            extra.append(Page(case.ref, boxes=boxes))
            others += 1
        else:
            continue
        extra += [
            Page(FrameRef(case_id=case.case_id, frame=frame), boxes=boxes)
            for frame in _neighbours(case, neighbours)
        ]
    return Syllabus(labels, (*pages, *extra), tuple(_frozen(catalogue, manifest, labels)))
