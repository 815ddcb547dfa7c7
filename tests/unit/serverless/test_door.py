"""Whatever comes in, Nuclio gets a JSON response with a reason."""

import io
import json
import logging

import nuclio_sdk
import nuclio_sdk.logger
import pytest

from casebook.errors import ModelError
from casebook.handler import Handler
from serverless.door import Function
from serverless.live import LiveModel
from tests.fakes.threshold_model import ThresholdSegmenter
from tests.unit.casebook.test_handler import LABELS, VESSEL, image


def opened(load_fails: bool = False) -> tuple[Function, nuclio_sdk.Context, io.StringIO]:
    def load(model_id: str | None) -> Handler:
        if load_fails:
            raise ModelError("no weights; fetch them")
        return Handler(ThresholdSegmenter(), LABELS)

    lines = io.StringIO()
    logger = nuclio_sdk.logger.Logger(logging.INFO, f"test.{id(lines)}")
    logger.set_handler("default", lines, nuclio_sdk.logger.JSONFormatter())
    live = LiveModel(lambda: None, load, lambda message, fields: None)
    return Function("interactor", live), nuclio_sdk.Context(logger), lines


def test_an_answer_is_a_json_response_that_names_its_model() -> None:
    function, context, lines = opened()
    body = {"image": image(VESSEL), "obj_bbox": [[8, 8], [42, 20]]}
    response = function.answer(context, nuclio_sdk.Event(body=body))
    assert isinstance(response, nuclio_sdk.Response)
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert isinstance(response.body, str)
    assert response.headers["X-Model-Id"] == "threshold"
    assert len(json.loads(response.body)["shapes"]) == 1
    line = json.loads(lines.getvalue())
    assert line["with"]["status"] == 200
    assert len(lines.getvalue()) < 600


def test_a_bug_is_logged_with_its_trace_and_answered_without() -> None:
    function, context, lines = opened()
    body = {"image": image(VESSEL), "text_prompts": ["broken"]}
    response = function.answer(context, nuclio_sdk.Event(body=body))
    assert response.status_code == 500
    assert response.headers["X-Model-Id"] == "threshold"
    assert "Traceback" not in response.body
    assert json.loads(response.body)["error"]
    first = json.loads(lines.getvalue().splitlines()[0])
    assert "RuntimeError: a bug of the model" in first["with"]["trace"]
    assert image(VESSEL)[:40] not in lines.getvalue()


@pytest.mark.parametrize("body", [b"", None, b"\x00", [1], 3.5, "text"])
def test_any_body_is_answered(body: object) -> None:
    function, context, _ = opened()
    response = function.answer(context, nuclio_sdk.Event(body=body))
    assert response.status_code == 400
    assert json.loads(response.body)["error"]


def test_without_a_model_the_answer_is_unavailable_with_the_reason() -> None:
    function, context, _ = opened(load_fails=True)
    response = function.answer(context, nuclio_sdk.Event(body={}))
    assert response.status_code == 503
    assert "fetch them" in json.loads(response.body)["error"]
