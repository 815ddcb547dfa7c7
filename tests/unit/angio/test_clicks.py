"""Simulated clicks on segmenters whose answers are known beforehand."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from jaxtyping import Bool

from angio.clicks import MAX_CLICKS, click_curve, clicks_needed
from casebook.errors import DataError
from casebook.protocols import Frame, Prediction, Prompt

Bitmap = Bool[np.ndarray, "h w"]


@dataclass(frozen=True)
class _Look:
    frame: Frame


@dataclass
class Parts:
    """Answers with the smallest part around each inner click, less that around each outer one."""

    parts: list[Bitmap]
    model_id: str = "parts"
    prompts: list[Prompt] = field(default_factory=list)

    def embed(self, frame: Frame) -> _Look:
        return _Look(frame)

    def predict(self, embedding: _Look, prompt: Prompt) -> tuple[Prediction, ...]:
        self.prompts.append(prompt)
        answer = np.zeros(embedding.frame.hw, dtype=bool)
        for wanted in (1, 0):
            for (x, y), label in zip(prompt.points_xy, prompt.point_labels, strict=True):
                here = [part for part in self.parts if part[int(y), int(x)]]
                if label == wanted and here:
                    answer[min(here, key=np.sum)] = bool(wanted)
        return (Prediction(answer, 0.5),)


def rectangle(top: int, left: int, height: int, width: int) -> Bitmap:
    bitmap = np.zeros((40, 60), dtype=bool)
    bitmap[top : top + height, left : left + width] = True
    return bitmap


LOOK = _Look(Frame(np.full((40, 60), 128, dtype=np.uint8)))


def test_each_click_goes_into_the_largest_error_that_is_left() -> None:
    parts = [rectangle(2, 2, 10, 10), rectangle(20, 20, 8, 8), rectangle(30, 50, 6, 6)]
    model = Parts(parts)
    curve = click_curve(model, LOOK, np.logical_or.reduce(parts))
    assert curve == pytest.approx((0.5, 0.82, 1.0))
    assert [clicks_needed(curve, wanted) for wanted in (0.5, 0.8, 0.9)] == [1, 2, 3]
    for (x, y), part in zip(model.prompts[-1].points_xy, parts, strict=True):
        middle = np.argwhere(part).mean(axis=0)
        assert (abs(y - middle[0]), abs(x - middle[1])) <= (1, 1), "not deep inside"


def test_too_much_is_clicked_away_and_earlier_clicks_are_kept() -> None:
    truth = rectangle(2, 2, 10, 10)
    leak = rectangle(2, 12, 10, 10)
    model = Parts([truth | leak, leak])
    assert click_curve(model, LOOK, truth) == pytest.approx((0.5, 1.0))
    last = model.prompts[-1]
    assert last.point_labels.tolist() == [1, 0]
    assert [bool(truth[int(y), int(x)]) for x, y in last.points_xy] == [True, False]


def test_a_part_on_the_border_is_clicked_inside_the_image() -> None:
    edge = rectangle(0, 0, 4, 60)
    model = Parts([edge])
    assert click_curve(model, LOOK, edge) == (1.0,)
    assert model.prompts[0].points_xy[0, 1] in (1, 2)


def test_a_blind_model_is_clicked_at_until_the_limit() -> None:
    curve = click_curve(Parts([]), LOOK, rectangle(2, 2, 10, 10))
    assert curve == (0.0,) * MAX_CLICKS
    assert clicks_needed(curve, 0.8) is None


def test_nothing_to_click_on_is_refused() -> None:
    with pytest.raises(DataError, match="the mask is empty"):
        click_curve(Parts([]), LOOK, np.zeros((40, 60), dtype=bool))
