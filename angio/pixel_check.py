"""Whether the frames of a case may be used: text found, painted over, ruled about or held.

Finds no text itself (angio/burned_text.py) and keeps nothing (angio/review.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import UInt8, UInt16

from angio.burned_text import find_text, merged
from angio.letters import Box
from angio.review import Desk
from casebook.errors import DeidError


@dataclass(frozen=True)
class Checked:
    """What came of looking for text on the frames of one case."""

    pixel_text: Literal["none found", "masked", "ruled clean"]
    boxes_xyxy: tuple[Box, ...] = ()
    """What must be painted over."""


def check(
    rendered: Mapping[int, UInt8[np.ndarray, "h w"]],
    stored: Mapping[int, UInt16[np.ndarray, "h w"]],
    desk: Desk | None,
    *,
    patient: str = "",
    source: str = "",
) -> Checked:
    """Look for text on the frames of a case, which a ruling for these very pixels settles.

    The stored bits are looked at as well, over their full range: what the rendering clips may
    still be read there.

    Raises:
        DeidError: something may be text and no person has ruled, or one refused the case.
    """
    if not rendered:
        return Checked("ruled clean")
    frames = np.stack([rendered[frame] for frame in sorted(rendered)])
    ruling = desk.ruling(frames) if desk else None
    if ruling is not None:
        if ruling.outcome == "refuse":
            raise DeidError(
                f"held case {ruling.held_id} was refused by a person; take the run out of the "
                "source, or change the ruling with `casebook deid rule`"
            )
        masked = ruling.outcome == "mask"
        return Checked("masked" if masked else "ruled clean", ruling.boxes_xyxy)
    found = list(find_text(frames))
    for frame in sorted(stored):
        if frame in rendered:
            found += find_text(full_range(stored[frame])[None])
    if not found:
        return Checked("none found")
    doubtful = [entry for entry in found if not entry.certain]
    if not doubtful:
        return Checked("masked", merged([entry.box_xyxy for entry in found]))
    boxes = [entry.box_xyxy for entry in found]
    reasons = [entry.reason for entry in found]
    x1, y1, x2, y2 = doubtful[0].box_xyxy
    seen = f"something like burned-in text at x {x1}–{x2}, y {y1}–{y2} px; expected none"
    if desk is None:
        raise DeidError(f"{seen}. Look at it and export the run without text")
    held_id = desk.hold(frames, boxes, reasons, patient=patient, source=source)
    raise DeidError(
        f"{seen}. Held as {held_id}: look with `casebook deid review`, say what it is with "
        "`casebook deid rule`, and import again"
    )


def full_range(stored: UInt16[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Stored values with the least and the greatest as 0 and 255."""
    low, high = int(stored.min()), int(stored.max())
    if high == low:
        return np.zeros(stored.shape, dtype=np.uint8)
    return np.asarray(((stored.astype(np.float32) - low) * (255 / (high - low))).astype(np.uint8))
