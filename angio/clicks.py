"""How many clicks a person would need: a simulated one clicks where the answer is most wrong.

The first click lies deepest inside the object, each next one deepest inside the largest error; all
clicks so far are the prompt, as CVAT sends them. Knows no model.

Source: Xu et al., Deep Interactive Object Selection, CVPR 2016, section 5; Sofiiuk et al., Reviving
Iterative Training with Mask Guidance for Interactive Segmentation, ICIP 2022, section 4.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from casebook.errors import DataError
from casebook.metrics import iou
from casebook.protocols import Embedding, Prompt, Segmenter

MAX_CLICKS = 10
ENOUGH_IOU = 0.9
"""No more clicks are made once the answer is this good."""


def click_curve(
    segmenter: Segmenter,
    embedding: Embedding,
    truth: Bool[np.ndarray, "h w"],
    *,
    limit: int = MAX_CLICKS,
    enough: float = ENOUGH_IOU,
) -> tuple[float, ...]:
    """IoU after each click, until it is enough or the limit is reached.

    Raises:
        DataError: there is nothing to click on.
    """
    if not truth.any():
        raise DataError("the mask is empty; expected an object to click on; leave it out")
    answer = np.zeros_like(truth)
    points: list[tuple[float, float]] = []
    inside: list[int] = []
    curve: list[float] = []
    while len(curve) < limit and (not curve or curve[-1] < enough):
        x, y = _worst(truth, answer)
        points.append((float(x), float(y)))
        inside.append(int(truth[y, x]))
        prompt = Prompt(
            points_xy=np.array(points, dtype=np.float64),
            point_labels=np.array(inside, dtype=np.int64),
            view=embedding.frame.view,
        )
        found = segmenter.predict(embedding, prompt)
        answer = found[0].bitmap if found else np.zeros_like(truth)
        curve.append(iou(answer, truth))
    return tuple(curve)


def clicks_needed(curve: Sequence[float], wanted_iou: float) -> int | None:
    """The first click after which the answer is good enough; none when none is."""
    return next((number for number, value in enumerate(curve, 1) if value >= wanted_iou), None)


def _worst(truth: Bool[np.ndarray, "h w"], answer: Bool[np.ndarray, "h w"]) -> tuple[int, int]:
    """The pixel deepest inside the largest error, x before y; only its box is looked at."""
    errors, _ = ndimage.label(truth ^ answer)
    sizes = np.bincount(errors.ravel())
    sizes[0] = 0
    number = int(np.argmax(sizes))
    rows, columns = ndimage.find_objects(errors, number)[number - 1]
    # The border of the image bounds the error like any other.
    largest = np.pad(errors[rows, columns] == number, 1)
    depth = ndimage.distance_transform_edt(largest)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(x) + columns.start, int(y) + rows.start
