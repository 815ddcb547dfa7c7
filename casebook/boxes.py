"""Rectangles a person drew instead of masks, and the masks the promoted model makes of them.

Written by the exchange with CVAT and answered by a worker, which meet on disk. Knows neither.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from casebook import masks
from casebook.annotations import CocoRle
from casebook.cases import FrameRef
from casebook.documents import Document, read_document, sha256_of_file
from casebook.rounds import RoundFolder

ASKED = "pull/boxes.json"
_DIGITS = 12


class DrawnBox(Document):
    """One rectangle."""

    key: str
    """Of the shape in CVAT and its corners: an edited rectangle is another."""
    at: FrameRef
    label: str
    box_xyxy: tuple[float, float, float, float]
    """In px."""


class DrawnBoxes(Document):
    """The rectangles that wait for masks."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int = Field(ge=1)
    boxes: tuple[DrawnBox, ...]


class BoxMask(Document):
    """The model's answer to one rectangle."""

    key: str
    at: FrameRef
    label: str
    model_id: str
    score: float = Field(ge=0, le=1)
    segmentation: CocoRle | None
    """Nothing where the model found nothing in the rectangle."""

    @property
    def mask(self) -> masks.Mask | None:
        """The mask, checked."""
        if self.segmentation is None:
            return None
        return masks.from_coco_rle(self.segmentation.counts, self.segmentation.size)


class BoxMasks(Document):
    """The model's answers to one request."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    masks: tuple[BoxMask, ...]


def answer_name(asked: Path) -> str:
    """The file of a round that answers a request: another request has another file."""
    return f"pull/box-masks-{sha256_of_file(asked)[:_DIGITS]}.json"


def answers(folder: RoundFolder) -> Iterator[BoxMask]:
    """All masks made of rectangles in a round so far."""
    for path in sorted(folder.file("pull").glob("box-masks-*.json")):
        yield from read_document(path, BoxMasks).masks
