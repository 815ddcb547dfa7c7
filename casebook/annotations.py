"""Annotations of a set of frames, as COCO with our fields beside.

Used for expert truth, proposals and pulled corrections alike. Knows nothing of CVAT.
"""

from enum import StrEnum
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from casebook import masks
from casebook.cases import CaseId, FrameRef
from casebook.documents import Document, read_document, write_document
from casebook.errors import DataError, MaskError
from casebook.labels import LabelSet


class Origin(StrEnum):
    """Who made a mask."""

    HUMAN = "human"
    HUMAN_BOX = "human_box"
    """The model's mask for a rectangle a person drew."""
    MODEL = "model"
    MODEL_REVIEWED = "model_reviewed"
    """The model's mask, left as it was by a person who completed the job."""
    TRACKED = "tracked"
    PSEUDO = "pseudo"
    """From another program, reviewed by nobody."""


class CocoRle(Document):
    """COCO's compressed run lengths."""

    counts: str
    size: tuple[int, int]


class CocoImage(Document):
    """One frame, with what happened to it."""

    id: int
    file_name: str
    width: int
    height: int
    case_id: CaseId
    frame: int
    status: Literal["pending", "ok", "corrected", "rejected"] = "pending"
    reason: str | None = None
    """Why it was rejected."""
    notes: tuple[str, ...] = ()

    @property
    def ref(self) -> FrameRef:
        """The frame this image is."""
        return FrameRef(case_id=self.case_id, frame=self.frame)


class CocoCategory(Document):
    """A label."""

    id: int
    name: str
    supercategory: str = ""


class CocoAnnotation(Document):
    """One mask with its provenance."""

    id: int
    image_id: int
    category_id: int
    segmentation: CocoRle
    area: float
    bbox: tuple[float, float, float, float]
    """x, y, width, height in px."""
    iscrowd: Literal[0, 1] = 0
    origin: Origin
    model_id: str | None = None
    score: float | None = Field(default=None, ge=0, le=1)
    prompt_source: str | None = None
    """Where the prompt came from: `concept`, `case`, `expert` …"""
    annotator: str | None = None
    """Pseudonymous name of the person in CVAT, when one touched it."""
    attributes: dict[str, str] = Field(default_factory=dict)

    @property
    def mask(self) -> masks.Mask:
        """The mask, checked."""
        return masks.from_coco_rle(self.segmentation.counts, self.segmentation.size)


class AnnotationSet(Document):
    """A COCO dataset of ours."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    info: dict[str, str] = Field(default_factory=dict)
    images: tuple[CocoImage, ...] = ()
    annotations: tuple[CocoAnnotation, ...] = ()
    categories: tuple[CocoCategory, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "AnnotationSet":
        images = {image.id for image in self.images}
        categories = {category.id for category in self.categories}
        if len(images) != len(self.images):
            raise ValueError("image ids are repeated")
        for annotation in self.annotations:
            if annotation.image_id not in images:
                raise ValueError(f"annotation {annotation.id} is of an unknown image")
            if annotation.category_id not in categories:
                raise ValueError(f"annotation {annotation.id} has an unknown category")
        return self

    def label_of(self, annotation: CocoAnnotation) -> str:
        """The label's name of an annotation."""
        for category in self.categories:
            if category.id == annotation.category_id:
                return category.name
        raise DataError(f"annotation {annotation.id} has an unknown category")

    def of_image(self, image_id: int) -> tuple[CocoAnnotation, ...]:
        """The annotations of one image."""
        return tuple(entry for entry in self.annotations if entry.image_id == image_id)


class AnnotationSetBuilder:
    """Collects images and masks and numbers them; `build` gives the finished set."""

    def __init__(self, labels: LabelSet, info: dict[str, str] | None = None) -> None:
        self._labels = labels
        self._info = dict(info or {})
        self._images: dict[str, CocoImage] = {}
        self._annotations: list[CocoAnnotation] = []

    def add_image(
        self,
        ref: FrameRef,
        hw: tuple[int, int],
        *,
        status: Literal["pending", "ok", "corrected", "rejected"] = "pending",
        reason: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> int:
        """Add a frame and return its image id.

        Raises:
            DataError: the frame is there already.
        """
        if ref.file_name in self._images:
            raise DataError(f"{ref.file_name} is in the annotation set twice")
        image = CocoImage(
            id=len(self._images) + 1,
            file_name=ref.file_name,
            width=hw[1],
            height=hw[0],
            case_id=ref.case_id,
            frame=ref.frame,
            status=status,
            reason=reason,
            notes=notes,
        )
        self._images[ref.file_name] = image
        return image.id

    def add_mask(
        self,
        image_id: int,
        label: str,
        mask: masks.Mask,
        origin: Origin,
        *,
        model_id: str | None = None,
        score: float | None = None,
        prompt_source: str | None = None,
        annotator: str | None = None,
        attributes: dict[str, str] | None = None,
    ) -> int:
        """Add a mask and return its annotation id.

        Raises:
            MaskError: the mask is empty.
        """
        if mask.area_px == 0:
            raise MaskError(f"the mask of {label!r} is empty; leave it out")
        x1, y1, x2, y2 = mask.box_xyxy
        entry = CocoAnnotation(
            id=len(self._annotations) + 1,
            image_id=image_id,
            category_id=self._labels.category_id(label),
            segmentation=CocoRle(counts=masks.to_coco_rle(mask), size=mask.hw),
            area=float(mask.area_px),
            bbox=(float(x1), float(y1), float(x2 - x1 + 1), float(y2 - y1 + 1)),
            origin=origin,
            model_id=model_id,
            score=score,
            prompt_source=prompt_source,
            annotator=annotator,
            attributes=attributes or {},
        )
        self._annotations.append(entry)
        return entry.id

    def build(self) -> AnnotationSet:
        """The finished set."""
        categories = tuple(
            CocoCategory(id=position, name=label.name, supercategory=label.role)
            for position, label in enumerate(self._labels.labels, start=1)
        )
        return AnnotationSet(
            info=self._info,
            images=tuple(self._images.values()),
            annotations=tuple(self._annotations),
            categories=categories,
        )


def read_annotations(path: Path) -> AnnotationSet:
    """Read an annotation set.

    Raises:
        StateError: the file is not there.
        DataError: it is not one of ours.
    """
    return read_document(path, AnnotationSet)


def write_annotations(path: Path, annotations: AnnotationSet) -> None:
    """Write an annotation set, atomically."""
    write_document(path, annotations)
