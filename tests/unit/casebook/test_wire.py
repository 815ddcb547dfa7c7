"""CVAT's requests: what is understood, what is refused and how."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from casebook import masks
from casebook.errors import PromptError, TooLargeError
from casebook.protocols import Frame
from casebook.wire import (
    MAX_BODY_BYTES,
    DetectorRequest,
    InteractorRequest,
    TrackerRequest,
    detection_of,
    grid_of,
    parse_request,
    shape_of,
    tracked_of,
)

IMAGE = base64.b64encode(b"image bytes").decode()
FRAME = Frame(np.zeros((40, 60), dtype=np.uint8))


def interactor(**values: Any) -> InteractorRequest:
    return parse_request({"image": IMAGE, **values}, InteractorRequest)


@pytest.mark.parametrize(
    "body",
    [
        {"image": IMAGE, "pos_points": [[1, 2]]},
        json.dumps({"image": IMAGE, "pos_points": [[1, 2]]}).encode(),
        json.dumps({"image": IMAGE, "pos_points": [[1, 2]]}),
        memoryview(json.dumps({"image": IMAGE, "pos_points": [[1, 2]]}).encode()),
    ],
    ids=["mapping", "bytes", "text", "memoryview"],
)
def test_a_body_is_read_in_every_form_the_runtime_gives(body: object) -> None:
    request = parse_request(body, InteractorRequest)
    assert request.image == b"image bytes"
    assert request.pos_points == ((1.0, 2.0),)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "is a list"),
        (None, "is a NoneType"),
        (b"[" * 200_000, "too deeply"),
        (b'{"a":' * 200_000, "too deeply"),
        (b'{"image": ' + b"9" * 5000 + b"}", "not JSON"),
        ("\ud800", "not JSON"),
        ({}, "image: Field required"),
        ({"image": 3}, "expected base64 text"),
        ({"image": "äöü"}, "not base64"),
        ({"image": "abc"}, "not base64"),
        ({"image": ""}, "empty image"),
        ({"image": IMAGE, "task": 5}, "task: Extra inputs"),
        ({"image": IMAGE, "x" * 10_000: 5}, "Extra inputs"),
        ({"image": IMAGE, "pos_points": [[10**400, 1]]}, "valid number"),
        ({"image": IMAGE, "pos_points": [[1e300, 1]]}, "less than"),
        ({"image": IMAGE, "pos_points": [[float("nan"), 1]]}, "finite"),
        ({"image": IMAGE, "pos_points": [["1", 1]]}, "valid number"),
        ({"image": IMAGE, "pos_points": [[True, 1]]}, "valid number"),
        ({"image": IMAGE, "pos_points": [[1]]}, "Field required"),
        ({"image": IMAGE, "pos_points": [[0, 0]] * 600}, "at most 512"),
        ({"image": IMAGE, "obj_bbox": [[1, 2]]}, "two corners"),
        ({"image": IMAGE, "obj_bbox": [1, 2]}, "each corner"),
        ({"image": IMAGE, "obj_bbox": [[1, 2], [3]]}, "each corner"),
        ({"image": IMAGE, "obj_bbox": "all"}, "two corners"),
        ({"image": IMAGE, "text_prompts": [""]}, "at least 1"),
        ({"image": IMAGE, "threshold": 2}, "less than or equal to 1"),
        ({"image": IMAGE, "prewarm": "yes"}, "valid boolean"),
    ],
)
def test_a_wrong_request_is_refused_with_its_reason(body: object, reason: str) -> None:
    with pytest.raises(PromptError, match=reason) as caught:
        parse_request(body, InteractorRequest)
    assert len(str(caught.value)) < 1200
    assert caught.value.http_status == 400


def test_many_problems_are_counted_not_listed_without_end() -> None:
    with pytest.raises(PromptError, match="and 45 more problems"):
        interactor(pos_points=[["x", 1]] * 50)


def test_a_request_over_the_limit_is_refused_as_too_large() -> None:
    with pytest.raises(TooLargeError) as caught:
        parse_request(b" " * 101, InteractorRequest, max_bytes=100)
    assert caught.value.http_status == 413
    with pytest.raises(TooLargeError):
        parse_request({"image": "A" * (MAX_BODY_BYTES + 1)}, InteractorRequest)


@pytest.mark.parametrize("box", [None, []], ids=["null", "empty"])
def test_no_box_comes_as_null_or_as_an_empty_list(box: object) -> None:
    assert interactor(obj_bbox=box).obj_bbox is None


def test_box_and_points_become_one_prompt() -> None:
    request = interactor(pos_points=[[5, 6]], neg_points=[[7, 8]], obj_bbox=[[30, 20], [2, 1]])
    (prompt,) = request.prompts(FRAME)
    assert prompt.points_xy.tolist() == [[5, 6], [7, 8]]
    assert prompt.point_labels.tolist() == [1, 0]
    assert prompt.box_xyxy == (2, 1, 30, 20)


def test_every_text_becomes_a_concept_of_its_own() -> None:
    prompts = interactor(text_prompts=["stenosis", "pRCA"]).prompts(FRAME)
    assert [prompt.concept for prompt in prompts] == ["stenosis", "pRCA"]


def test_a_click_on_the_far_border_is_inside_the_last_pixel() -> None:
    (prompt,) = interactor(pos_points=[[60, 40], [0, 0]]).prompts(FRAME)
    assert prompt.points_xy.tolist() == [[59, 39], [0, 0]]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "empty"),
        ({"neg_points": [[1, 1]]}, "only negative"),
        ({"pos_points": [[61, 1]]}, "outside"),
        ({"pos_points": [[-1, 1]]}, "outside"),
        ({"obj_bbox": [[70, 50], [80, 60]]}, "outside"),
        ({"pos_points": [[1, 1]], "text_prompts": ["tree"]}, "either text or points"),
        ({"pos_points": [[1, 1]], "neg_points": [[1, 1]]}, "both inside and outside"),
        ({"text_prompts": ["  "]}, "empty text"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        interactor(**values).prompts(FRAME)


def test_a_detector_request_needs_only_an_image() -> None:
    request = parse_request({"image": IMAGE, "threshold": 0.3}, DetectorRequest)
    assert request.threshold == 0.3


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "neither a shape nor a state"),
        ({"shapes": [None], "states": []}, "entry has neither"),
        ({"shapes": [{"type": "rectangle", "points": [1, 2, 3, 4, 5]}]}, "has 5 numbers"),
        ({"shapes": [{"type": "ellipse", "points": [1, 2, 3, 4]}]}, "'rectangle' or 'mask'"),
        ({"shapes": [], "states": [{"memory": 1}]}, "valid string"),
    ],
)
def test_a_wrong_tracker_request_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        parse_request({"image": IMAGE, **values}, TrackerRequest)


def test_shapes_and_states_are_paired_whichever_is_longer() -> None:
    box = {"type": "rectangle", "points": [1, 2, 3, 4]}
    request = parse_request(
        {"image": IMAGE, "shapes": [box, None], "states": [None, "key"]}, TrackerRequest
    )
    (first, second) = request.pairs
    assert first[0] is not None
    assert first[0].box_xyxy == (1, 2, 3, 4)
    assert second == (None, "key")
    later = parse_request({"image": IMAGE, "states": ["a", "b"]}, TrackerRequest)
    assert later.pairs == ((None, "a"), (None, "b"))


bitmaps = arrays(bool, st.tuples(st.integers(2, 20), st.integers(2, 20))).filter(np.any)


@given(bitmap=bitmaps, confidence=st.floats(0, 1))
def test_an_interactors_shape_reads_back_as_the_same_mask(
    bitmap: np.ndarray, confidence: float
) -> None:
    document = json.loads(shape_of(bitmap, confidence).model_dump_json())
    assert np.array_equal(masks.from_cvat(document["points"], bitmap.shape), bitmap)
    (attribute,) = document["attributes"]
    assert attribute["spec_id"] == 0
    assert float(attribute["value"]) == pytest.approx(confidence, abs=1e-4)


@given(bitmap=bitmaps)
def test_a_detection_reads_back_as_the_same_mask_with_a_polygon(bitmap: np.ndarray) -> None:
    found = detection_of(bitmap, "pRCA", 0.5, [("model_id", "m")])
    document = json.loads(found.model_dump_json())
    assert np.array_equal(masks.from_detector(document["mask"], bitmap.shape), bitmap)
    assert len(document["points"]) >= 6
    assert len(document["points"]) % 2 == 0
    assert document["type"] == "mask"
    assert document["confidence"] == "0.5000"
    assert document["attributes"] == [{"name": "model_id", "value": "m"}]


@given(bitmap=bitmaps)
def test_a_grid_reads_back_as_the_same_mask(bitmap: np.ndarray) -> None:
    document = json.loads(grid_of(bitmap).model_dump_json())
    assert np.array_equal(masks.from_grid(document["mask"]), bitmap)


def test_a_tracked_rectangle_has_the_edges_of_the_pixels() -> None:
    bitmap = np.zeros((10, 12), dtype=bool)
    bitmap[3:5, 6:9] = True
    assert tracked_of(bitmap, "rectangle").points == (6, 3, 9, 5)
    assert masks.from_cvat(tracked_of(bitmap, "mask").points, (10, 12)).sum() == 6
