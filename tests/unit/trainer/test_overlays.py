"""Outlines of several masks on one picture: each apart, numbered, told by more than colour."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer.overlays import EXPERT_RGB, MODEL_RGB, SEVERAL_RGB, Pair, colours, draw

GREY = np.full((200, 200), 90, dtype=np.uint8)


def block(top: int, left: int) -> np.ndarray:
    found = np.zeros(GREY.shape, dtype=bool)
    found[top : top + 60, left : left + 40] = True
    return found


def counted(payload: bytes) -> dict[tuple[int, ...], int]:
    pixels = np.asarray(Image.open(io.BytesIO(payload)).convert("RGB")).reshape(-1, 3)
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(value): int(count) for value, count in zip(values.tolist(), counts, strict=True)}


def test_touching_masks_of_two_labels_keep_a_whole_outline_each() -> None:
    first = Pair("proximal RCA", block(60, 60), block(64, 60))
    second = Pair("mid RCA", block(60, 100), block(56, 100))
    found = counted(draw(GREY, [first, second]))
    (one, one_model), (two, two_model) = colours(2)
    for rgb in (one, one_model, two, two_model):
        assert found.get(rgb, 0) > 300, f"{rgb} is hardly to be seen"
    # The model's dashes cover half of an outline that the expert's fills.
    assert found[one_model] < found[one]
    assert found[two_model] < found[two]


def test_one_mask_is_blue_and_orange_without_a_number() -> None:
    found = counted(draw(GREY, [Pair("tube", block(60, 60), block(64, 60))]))
    assert set(found) == {(90, 90, 90), EXPERT_RGB, MODEL_RGB}


def test_a_mask_the_model_did_not_find_is_outlined_once() -> None:
    nothing = np.zeros(GREY.shape, dtype=bool)
    found = counted(draw(GREY, [Pair("tube", block(60, 60), nothing)]))
    assert set(found) == {(90, 90, 90), EXPERT_RGB}


@pytest.mark.parametrize("count", [2, 6, 9])
def test_neighbours_never_share_a_colour_and_no_dash_is_lost(count: int) -> None:
    pairs = colours(count)
    assert len(pairs) == count
    assert len({ours for ours, _ in pairs}) == min(count, len(SEVERAL_RGB))
    assert all(theirs > ours for ours, theirs in pairs), "the model's is lighter"
