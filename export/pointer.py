"""How an operator shows the vessel to measure: box, points on it, points beside. Knows no model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from casebook.errors import PromptError
from casebook.labels import Label
from casebook.protocols import Prompt
from export.findings import Box


@dataclass(frozen=True)
class Pointer:
    """How an operator shows the vessel to measure, px; empty: nobody did."""

    box_xyxy: Box | None = None
    inside_xy: tuple[tuple[float, float], ...] = ()
    outside_xy: tuple[tuple[float, float], ...] = ()
    segment: Label | None = None
    """What the vessel is."""

    @property
    def prompt(self) -> Prompt | None:
        """As a prompt of the student."""
        points = (*self.inside_xy, *self.outside_xy)
        if self.box_xyxy is None and not points:
            return None
        kinds = [1] * len(self.inside_xy) + [0] * len(self.outside_xy)
        return Prompt(
            np.array(points, dtype=np.float64).reshape(-1, 2),
            np.array(kinds, dtype=np.int64),
            self.box_xyxy,
        )


def shown_of(
    box: str | None, points: Sequence[str], prompts: Sequence[str]
) -> tuple[Box | None, tuple[tuple[float, float], ...]]:
    """The box and the points on the vessel, of which each prompt is one by its numbers.

    Raises:
        PromptError: one is neither two nor four numbers, or there are two boxes.
    """
    boxes = [text for text in prompts if text.count(",") == 3]
    boxes += [] if box is None else [box]
    if len(boxes) > 1:
        raise PromptError(
            f"{len(boxes)} boxes; expected one around the vessel to measure; show the rest of it "
            "by points"
        )
    others = [text for text in prompts if text.count(",") != 3]
    inside = tuple(point_of(text) for text in (*points, *others))
    return box_of(boxes[0] if boxes else None), inside


def box_of(text: str | None) -> Box | None:
    """A box as a person writes it: x1,y1,x2,y2 in px.

    Raises:
        PromptError: it is not four numbers.
    """
    if text is None:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        raise PromptError(f"box {text!r}; expected x1,y1,x2,y2 in px") from None
    return x1, y1, x2, y2


def point_of(text: str) -> tuple[float, float]:
    """A point as a person writes it: x,y in px.

    Raises:
        PromptError: it is not two numbers.
    """
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise PromptError(f"point {text!r}; expected x,y in px") from None
    return x, y
