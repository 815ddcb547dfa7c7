"""What CVAT sends a serverless function and what it expects back, as values.

Requests are checked here so that nothing behind this file meets a wrong type, a number that is not
finite or a body without end. Knows no model and no HTTP.
Source: cvat-ai/cvat, cvat/apps/lambda_manager/views.py.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import numpy as np
from jaxtyping import Bool
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from casebook import masks, polygons
from casebook.documents import Document
from casebook.errors import PromptError, TooLargeError
from casebook.protocols import Frame, Prompt

MAX_BODY_BYTES = 33_554_432
"""Largest request: `maxRequestBodySize` of CVAT's own functions."""
MAX_POINTS = 512
"""Most clicks of one kind in a request."""
MAX_NUMBERS = 4_000_000
"""Most numbers in the shape of a request."""

CONFIDENCE_SPEC_ID = 0
"""The attribute behind the confidence slider of CVAT's interactors."""

R = TypeVar("R", bound=Document)


def _decoded(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("expected base64 text")  # noqa: TRY004 - pydantic collects ValueErrors
    if len(value) > MAX_BODY_BYTES:
        raise TooLargeError(f"image of {len(value)} characters; the limit is {MAX_BODY_BYTES}")
    try:
        payload = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if not payload:
        raise ValueError("empty image")
    return payload


def _corners(value: object) -> object:
    """CVAT's box, two corners, as x1, y1, x2, y2; an empty list is no box."""
    if value is None or value == []:
        return None
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("expected two corners [[x1, y1], [x2, y2]], an empty list or null")
    if not all(isinstance(corner, list) and len(corner) == 2 for corner in value):
        raise ValueError("each corner needs x and y")
    return (*value[0], *value[1])


ImageBytes = Annotated[bytes, BeforeValidator(_decoded)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e7, le=1e7)]
Point = tuple[Number, Number]
Box = Annotated[tuple[Number, Number, Number, Number] | None, BeforeValidator(_corners)]
Concept = Annotated[str, Field(min_length=1, max_length=200)]


class InteractorRequest(Document):
    """One click of an annotator: the whole prompt so far, and the image again."""

    image: ImageBytes
    pos_points: tuple[Point, ...] = Field(default=(), max_length=MAX_POINTS)
    neg_points: tuple[Point, ...] = Field(default=(), max_length=MAX_POINTS)
    obj_bbox: Box = None
    text_prompts: tuple[Concept, ...] = Field(default=(), max_length=32)
    threshold: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    prewarm: bool = Field(default=False, strict=True)
    """Ours: only embed the image, for an annotator who will come to it."""

    def prompts(self, frame: Frame) -> tuple[Prompt, ...]:
        """What to ask the model: one prompt for box and points, or one a concept.

        Raises:
            PromptError: empty, contradictory, or outside the image.
        """
        drawn = bool(self.pos_points or self.neg_points or self.obj_bbox)
        if drawn and self.text_prompts:
            raise PromptError("text and points in one request; give either text or points and box")
        if self.text_prompts:
            asked = tuple(Prompt(concept=text, view=frame.view) for text in self.text_prompts)
        else:
            points = [_inside(point, frame.hw) for point in (*self.pos_points, *self.neg_points)]
            labels = [1] * len(self.pos_points) + [0] * len(self.neg_points)
            asked = (
                Prompt(
                    np.asarray(points, dtype=np.float64).reshape(-1, 2),
                    np.asarray(labels, dtype=np.int64),
                    self.obj_bbox,
                    view=frame.view,
                ),
            )
        return tuple(prompt.checked(frame.hw) for prompt in asked)


def _inside(point_xy: Point, hw: tuple[int, int]) -> tuple[float, float]:
    """CVAT counts from the corner of a pixel, so a click at the right border has x = width."""
    x, y = point_xy
    height, width = hw
    if 0 <= x <= width and 0 <= y <= height:
        return min(x, width - 1.0), min(y, height - 1.0)
    return x, y


class DetectorRequest(Document):
    """A frame to annotate without a prompt."""

    image: ImageBytes
    threshold: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None


class TrackedShape(Document):
    """A shape as a tracker receives and answers it."""

    type: Literal["rectangle", "mask"]
    points: tuple[Number, ...] = Field(min_length=4, max_length=MAX_NUMBERS)
    """x1, y1, x2, y2 of a rectangle, or the run lengths and box of a mask."""

    @model_validator(mode="after")
    def _complete(self) -> "TrackedShape":
        if self.type == "rectangle" and len(self.points) != 4:
            raise ValueError(f"rectangle has {len(self.points)} numbers; expected x1, y1, x2, y2")
        return self

    @property
    def box_xyxy(self) -> tuple[float, float, float, float]:
        """A rectangle's corners in px."""
        x1, y1, x2, y2 = self.points
        return x1, y1, x2, y2


class TrackerRequest(Document):
    """Shapes to start from, or the states of those already followed, on one frame."""

    image: ImageBytes
    shapes: tuple[TrackedShape | None, ...] = Field(default=(), max_length=256)
    states: tuple[Annotated[str, Field(max_length=256)] | None, ...] = Field(
        default=(), max_length=256
    )

    @model_validator(mode="after")
    def _paired(self) -> "TrackerRequest":
        if not self.pairs:
            raise ValueError("neither a shape nor a state; send one of them")
        if any(shape is None and state is None for shape, state in self.pairs):
            raise ValueError("an entry has neither shape nor state; send one of them")
        return self

    @property
    def pairs(self) -> tuple[tuple[TrackedShape | None, str | None], ...]:
        """Shape and state of each object, in order; a missing end counts as null."""
        n = max(len(self.shapes), len(self.states))
        shapes = (*self.shapes, *(None,) * (n - len(self.shapes)))
        states = (*self.states, *(None,) * (n - len(self.states)))
        return tuple(zip(shapes, states, strict=True))


class SpecAttribute(Document):
    """An attribute by its number."""

    spec_id: int
    value: str


class MaskShape(Document):
    """One mask of an interactor's answer."""

    type: Literal["mask"] = "mask"
    points: tuple[int, ...]
    """Run lengths by row within the box, then the box, inclusive."""
    attributes: tuple[SpecAttribute, ...] = ()


class ShapesAnswer(Document):
    """An interactor's answer."""

    shapes: tuple[MaskShape, ...] = ()


class GridAnswer(Document):
    """An interactor's answer for servers older than 2.60: one full-size mask, no confidence."""

    mask: tuple[tuple[int, ...], ...]


class NamedAttribute(Document):
    """An attribute by its name."""

    name: str
    value: str


class Detection(Document):
    """One object of a detector's answer, which is a plain list of them."""

    label: str
    type: Literal["mask"] = "mask"
    mask: tuple[int, ...]
    """Pixels of the box by row, each 0 or 1, then the box, inclusive."""
    points: tuple[float, ...]
    """The outline x, y, x, y …, for those who convert masks to polygons."""
    confidence: str
    attributes: tuple[NamedAttribute, ...] = ()


class TrackerAnswer(Document):
    """Where each object is now, and the key of its memory."""

    shapes: tuple[TrackedShape, ...]
    states: tuple[str, ...]


class Refusal(Document):
    """Why a request was not answered."""

    error: str


def parse_request(body: object, kind: type[R], max_bytes: int = MAX_BODY_BYTES) -> R:
    """A request from what the runtime hands over: a mapping, or raw bytes.

    Raises:
        TooLargeError: longer than `max_bytes`.
        PromptError: not JSON, or not a request of this kind; the problems are listed.
    """
    values = _mapping(body, max_bytes)
    try:
        return kind.model_validate(values)
    except ValidationError as problem:
        raise PromptError(_problems(problem)) from None


def _mapping(body: object, max_bytes: int) -> dict[str, object]:
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")
    if isinstance(body, bytes | bytearray | memoryview):
        if len(body) > max_bytes:
            raise TooLargeError(f"request of {len(body)} bytes; the limit is {max_bytes}")
        try:
            body = json.loads(bytes(body))
        except RecursionError:
            raise PromptError("the request nests too deeply; send CVAT's format") from None
        except ValueError:
            raise PromptError("the request is not JSON; send CVAT's format") from None
    if not isinstance(body, dict):
        found = type(body).__name__
        raise PromptError(f"the request is a {found}; expected an object with an image")
    return body


def _problems(problem: ValidationError) -> str:
    found = problem.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        f"{'.'.join(str(part)[:40] for part in error['loc']) or 'request'}: {error['msg'][:120]}"
        for error in found[:5]
    ]
    more = f" and {len(found) - 5} more problems" if len(found) > 5 else ""
    return f"not a valid request: {'; '.join(lines)}{more}"


def shape_of(bitmap: Bool[np.ndarray, "h w"], confidence: float) -> MaskShape:
    """A bitmap with its confidence, 0 to 1, as an interactor answers it.

    Raises:
        MaskError: nothing is set.
    """
    value = SpecAttribute(spec_id=CONFIDENCE_SPEC_ID, value=f"{confidence:.4f}")
    return MaskShape(points=tuple(masks.to_cvat(bitmap)), attributes=(value,))


def grid_of(bitmap: Bool[np.ndarray, "h w"]) -> GridAnswer:
    """A bitmap as older servers expect it."""
    return GridAnswer(mask=tuple(tuple(row) for row in masks.to_grid(bitmap)))


def detection_of(
    bitmap: Bool[np.ndarray, "h w"],
    label: str,
    confidence: float,
    attributes: Sequence[tuple[str, str]],
) -> Detection:
    """A bitmap as a detector answers it.

    Raises:
        MaskError: nothing is set.
    """
    corners = polygons.outline(bitmap)
    return Detection(
        label=label,
        mask=tuple(masks.to_detector(bitmap)),
        points=tuple(round(value, 1) for corner in corners for value in corner),
        confidence=f"{confidence:.4f}",
        attributes=tuple(NamedAttribute(name=name, value=value) for name, value in attributes),
    )


def tracked_of(bitmap: Bool[np.ndarray, "h w"], kind: Literal["rectangle", "mask"]) -> TrackedShape:
    """A bitmap as a tracker answers it: its run lengths, or the edges of its box.

    Raises:
        MaskError: nothing is set.
    """
    if kind == "mask":
        return TrackedShape(type="mask", points=tuple(float(n) for n in masks.to_cvat(bitmap)))
    x1, y1, x2, y2 = masks.box_of(bitmap)
    return TrackedShape(type="rectangle", points=(x1, y1, x2 + 1.0, y2 + 1.0))
