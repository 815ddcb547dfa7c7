"""A function under the runtimes it will meet: whatever is sent, JSON with a reason comes back."""

import base64
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from casebook import masks
from casebook.catalogue import png_bytes
from tests.contract.runtimes import StandIn, Wrapper, stand_in, wrapper
from tests.fakes.broken_requests import broken

Runtime = StandIn | Wrapper
PIXELS = np.full((48, 64), 180, dtype=np.uint8)
PIXELS[10:16, 10:40] = 60
IMAGE = base64.b64encode(png_bytes(PIXELS)).decode()
BOX = {"image": IMAGE, "pos_points": [], "neg_points": [], "obj_bbox": [[8, 8], [42, 20]]}
REQUESTS = 200


@pytest.fixture(
    scope="module", params=["stand-in", pytest.param("nuclio", marks=pytest.mark.nuclio)]
)
def runtime(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    if request.param == "stand-in":
        with stand_in() as running:
            yield running
        return
    path = os.environ.get("NUCLIO_PYTHON_WRAPPER_PATH")
    if not path:
        pytest.skip("NUCLIO_PYTHON_WRAPPER_PATH is not set (Nuclio's _nuclio_wrapper.py)")
    pytest.importorskip("msgpack", reason="Nuclio's wrapper speaks msgpack")
    with wrapper(Path(path), tmp_path_factory.mktemp("sockets")) as running:
        yield running


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "text/plain"]
)
def test_a_box_is_answered_whatever_the_content_type(runtime: Runtime, content_type: str) -> None:
    reply = runtime.post(json.dumps(BOX).encode(), content_type)
    assert (reply.status, reply.content_type) == (200, "application/json")
    assert reply.headers["x-model-id"] == "threshold"
    (shape,) = reply.json()["shapes"]
    assert np.array_equal(masks.from_cvat(shape["points"], (48, 64)), PIXELS < 100)


def test_a_bug_of_the_model_gives_no_trace_away(runtime: Runtime) -> None:
    reply = runtime.post(json.dumps({"image": IMAGE, "text_prompts": ["broken"]}).encode())
    assert (reply.status, reply.content_type) == (500, "application/json")
    assert b"Traceback" not in reply.body
    assert reply.json()["error"]


def test_an_answer_of_many_runs_comes_back_whole(runtime: Runtime) -> None:
    pixels = np.full((1024, 1024), 60, dtype=np.uint8)
    pixels[1:, 1::2] = 180
    body = {"image": base64.b64encode(png_bytes(pixels)).decode(), "pos_points": [[0, 0]]}
    reply = runtime.post(json.dumps(body).encode())
    (shape,) = reply.json()["shapes"]
    assert len(shape["points"]) > 500_000
    assert masks.from_cvat(shape["points"], (1024, 1024))[0].all()


def test_every_broken_request_gets_json_with_a_reason(runtime: Runtime) -> None:
    dice = random.Random(20)  # noqa: S311 - reproducible, nothing secret
    refused = 0
    for number in range(REQUESTS):
        body, content_type = broken(dice)
        reply = runtime.post(body, content_type)
        where = f"request {number}: {body[:200]!r} gave {reply.status} {reply.body[:200]!r}"
        assert reply.content_type == "application/json", where
        if reply.status == 200:
            assert "shapes" in reply.json(), where
            continue
        assert reply.status in {400, 413, 422}, where
        assert len(reply.json()["error"]) > 10, where
        assert b"Traceback" not in reply.body, where
        refused += 1
    assert refused > REQUESTS * 0.6
    assert runtime.post(json.dumps(BOX).encode()).status == 200
