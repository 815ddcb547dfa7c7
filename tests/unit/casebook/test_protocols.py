"""Prompts that make sense, and those that do not."""

import numpy as np
import pytest

from casebook.errors import PromptError
from casebook.protocols import Frame, Prompt, Segmenter, Tracker
from tests.fakes.threshold_model import ThresholdSegmenter, ThresholdTracker

HW = (40, 60)


def clicks(*points_xy_label: tuple[float, float, int]) -> Prompt:
    points = np.array([point[:2] for point in points_xy_label], dtype=np.float64).reshape(-1, 2)
    labels = np.array([point[2] for point in points_xy_label], dtype=np.int64)
    return Prompt(points, labels)


def test_the_digest_knows_pixels_and_shape() -> None:
    pixels = np.arange(12, dtype=np.uint8)
    one, other = Frame(pixels.reshape(3, 4)), Frame(pixels.reshape(4, 3))
    assert one.digest != other.digest
    assert one.digest == Frame(pixels.reshape(3, 4).copy()).digest
    assert one.hw == (3, 4)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((5.0, 6.0, 20.0, 30.0), (5.0, 6.0, 20.0, 30.0)),
        ((20.0, 30.0, 5.0, 6.0), (5.0, 6.0, 20.0, 30.0)),
        ((-9.0, -9.0, 99.0, 99.0), (0.0, 0.0, 59.0, 39.0)),
    ],
)
def test_a_box_is_ordered_and_clipped_to_the_image(
    box: tuple[float, float, float, float], clipped: tuple[float, float, float, float]
) -> None:
    assert Prompt(box_xyxy=box).checked(HW).box_xyxy == clipped


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (Prompt(), "empty"),
        (Prompt(concept="  "), "empty text"),
        (clicks((float("nan"), 1.0, 1)), "not finite"),
        (clicks((1.0, 1.0, 2)), "neither 1"),
        (clicks((60.0, 1.0, 1)), "outside the 60×40"),
        (clicks((1.0, 40.0, 1)), "outside"),
        (clicks((-1.0, 1.0, 1)), "outside"),
        (clicks((1.0, 1.0, 0)), "only negative"),
        (clicks((1.0, 1.0, 0), (1.0, 1.0, 1)), "both inside and outside"),
        (Prompt(box_xyxy=(float("inf"), 0.0, 1.0, 1.0)), "not finite"),
        (Prompt(box_xyxy=(70.0, 0.0, 80.0, 5.0)), "outside"),
        (Prompt(box_xyxy=(0.0, -9.0, 5.0, -3.0)), "outside"),
    ],
)
def test_a_prompt_without_sense_is_refused(prompt: Prompt, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        prompt.checked(HW)


@pytest.mark.parametrize(
    "prompt",
    [
        clicks((0.0, 0.0, 1), (59.0, 39.0, 0)),
        Prompt(concept="stenosis"),
        Prompt(box_xyxy=(1.0, 1.0, 5.0, 5.0), concept="stenosis"),
    ],
    ids=["clicks", "concept", "both"],
)
def test_a_sensible_prompt_stays_as_it_is(prompt: Prompt) -> None:
    checked = prompt.checked(HW)
    assert np.array_equal(checked.points_xy, prompt.points_xy)
    assert (checked.concept, checked.box_xyxy) == (prompt.concept, prompt.box_xyxy)


def test_the_model_without_weights_is_a_model() -> None:
    assert isinstance(ThresholdSegmenter(), Segmenter)
    assert isinstance(ThresholdTracker(), Tracker)
