"""Functions over the shared model process: one model, one memory of images, the same answers."""

import base64
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nuclio_sdk
import numpy as np
import pytest

from casebook import masks
from casebook.catalogue import png_bytes
from casebook.errors import ConfigError, ModelError
from casebook.handler import Handler, Kind
from casebook.labels import Label, LabelSet
from demo.processor import Answer, event_of
from serverless import shared
from serverless.forward import Forwarder
from serverless.live import LiveModel
from tests.fakes.broken_requests import broken
from tests.fakes.threshold_model import ThresholdSegmenter, ThresholdTracker

ROOT = Path(__file__).resolve().parents[2]
LABELS = LabelSet(name="test", labels=(Label(name="pRCA", role="segment"),))
PIXELS = np.full((48, 64), 180, dtype=np.uint8)
PIXELS[10:16, 10:40] = 60
IMAGE = base64.b64encode(png_bytes(PIXELS)).decode()
BOX = {"image": IMAGE, "pos_points": [], "neg_points": [], "obj_bbox": [[8, 8], [42, 20]]}


class Running:
    """A shared process in this one: its server, its model, and functions over it."""

    def __init__(self) -> None:
        self.segmenter = ThresholdSegmenter("m1")
        self.wanted = "m1"
        live: LiveModel[str] = LiveModel(lambda: self.wanted, self._load, lambda *said: None)
        self.server = shared.Server(("127.0.0.1", 0), live)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()
        self._functions: list[Function] = []

    def function(self, kind: Kind) -> "Function":
        """A function over this process."""
        self._functions.append(Function(kind, self.url))
        return self._functions[-1]

    def _load(self, wanted: str | None) -> Handler:
        if wanted == "none":
            raise ModelError("model none is damaged; restore it")
        return Handler(self.segmenter, LABELS, tracker=ThresholdTracker())

    def close(self) -> None:
        for function in self._functions:
            function.close()
        self.server.shutdown()
        self.server.server_close()
        self._thread.join(10)


class Function:
    """A deployed function without a model."""

    def __init__(self, kind: Kind, url: str, **options: float) -> None:
        self._forwarder = Forwarder(kind, url, **options)
        logger = nuclio_sdk.logger.Logger(10, "test")
        self.lines: list[dict[str, Any]] = []
        logger.info_with = lambda message, **fields: self.lines.append(fields)
        self._context = nuclio_sdk.Context(logger)

    def close(self) -> None:
        self._forwarder.close()

    def post(self, body: object, content_type: str = "application/json") -> Answer:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        event = event_of("POST", "/", headers, payload, datetime.now(UTC))
        found = self._forwarder.answer(self._context, event)
        headers_of = tuple(found.headers.items())
        return Answer(found.status_code, found.body.encode(), found.content_type, headers_of)


@pytest.fixture
def running() -> Iterator[Running]:
    found = Running()
    yield found
    found.close()


def test_two_functions_and_many_clicks_cost_one_embedding(running: Running) -> None:
    clicks = [running.function("interactor") for _ in range(2)]
    for function in clicks:
        for x in (12, 20):
            answer = function.post({"image": IMAGE, "pos_points": [[x, 12]]})
            (shape,) = json.loads(answer.body)["shapes"]
            assert np.array_equal(masks.from_cvat(shape["points"], (48, 64)), PIXELS < 100)
    found = running.function("detector").post({"image": IMAGE})
    assert len(json.loads(found.body)) == 1
    assert len(running.segmenter.embedded) == 1


def test_another_worker_knows_the_track(running: Running) -> None:
    shape = {"type": "mask", "points": masks.to_cvat(PIXELS < 100)}
    first = running.function("tracker").post({"image": IMAGE, "shapes": [shape]})
    body = {"image": IMAGE, "states": json.loads(first.body)["states"]}
    assert running.function("tracker").post(body).status == 200
    assert running.function("tracker").post({**body, "states": ["guess"]}).status == 409


def test_the_answer_names_its_model_and_its_times(running: Running) -> None:
    function = running.function("interactor")
    headers = dict(function.post(BOX).headers)
    assert headers["X-Model-Id"] == "m1"
    assert "predict;dur=" in headers["Server-Timing"]
    (line,) = function.lines
    assert (line["status"], line["model_id"]) == (200, "m1")
    assert line["pass_ms"] > 0
    assert not any(len(str(value)) > 40 for value in line.values())


def test_every_broken_request_gets_json_with_a_reason(running: Running) -> None:
    function, dice = running.function("interactor"), random.Random(3)  # noqa: S311 - not secret
    for number in range(100):
        body, content_type = broken(dice)
        answer = function.post(body, content_type)
        assert answer.content_type == "application/json", number
        assert answer.status in {200, 400, 413, 422}, (number, body[:80], answer)
        assert answer.status == 200 or json.loads(answer.body)["error"]
    assert function.post(BOX).status == 200


def test_a_bug_of_the_model_gives_no_trace_away(running: Running) -> None:
    answer = running.function("interactor").post({"image": IMAGE, "text_prompts": ["broken"]})
    assert answer.status == 500
    assert b"Traceback" not in answer.body


def start(home: Path, port: int) -> "subprocess.Popen[bytes]":
    """The shared process as compose starts it, over the shipped base, once it answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serverless.shared", "--port", str(port)],
        cwd=ROOT,
        env={**os.environ, "ANGIOLOOP_HOME": str(home), "ANGIOLOOP_CONF": str(ROOT / "conf")},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
        except ConnectionRefusedError:
            time.sleep(0.1)
        else:
            return process
        finally:
            connection.close()
    raise TimeoutError("the shared process did not come up")


def test_a_function_outlives_the_process_that_is_killed_and_started_again(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    function = Function("interactor", f"http://127.0.0.1:{port}")
    bodies = set()
    try:
        for _ in range(2):
            process = start(tmp_path, port)
            answer = function.post(BOX)
            assert answer.status == 200, answer.body
            bodies.add(answer.body)
            process.kill()
            process.wait()
            answer = function.post(BOX)
            assert answer.status == 503
            assert b"angioloop_model" in answer.body
    finally:
        process.kill()
        process.wait()
        function.close()
    assert len(bodies) == 1


def test_a_process_that_thinks_too_long_is_not_waited_for() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        function = Function("interactor", url, timeout_s=0.2)
        answer = function.post(BOX)
        function.close()
    assert answer.status == 503
    assert b"in time" in answer.body


def test_a_process_that_ends_each_request_is_asked_twice_and_named() -> None:
    asked = 0

    def hang_up(listener: socket.socket) -> None:
        nonlocal asked
        for _ in range(2):
            client, _ = listener.accept()
            asked += 1
            client.close()

    with socket.socket() as rude:
        rude.bind(("127.0.0.1", 0))
        rude.listen(2)
        thread = threading.Thread(target=hang_up, args=(rude,))
        thread.start()
        function = Function("interactor", f"http://127.0.0.1:{rude.getsockname()[1]}")
        answer = function.post(BOX)
        thread.join(10)
        function.close()
    assert (answer.status, asked) == (503, 2)
    assert b"ends each request" in answer.body


@pytest.mark.parametrize("url", ["https://host:1", "host:1", "http://host:1/path", "http://:1"])
def test_an_address_that_is_none_stops_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="expected http://HOST:PORT"):
        Forwarder("interactor", url)


def ask(running: Running, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
    connection.putrequest(method, path)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    found = connection.getresponse()
    answer = Answer(found.status, found.read(), found.headers["Content-Type"])
    connection.close()
    return answer


def test_the_health_check_names_the_model_or_the_reason(running: Running) -> None:
    answer = ask(running, "GET", "/healthz")
    assert (answer.status, json.loads(answer.body)) == (200, {"model_id": "m1"})
    empty = LiveModel(lambda: "none", running._load, lambda *said: None)
    running.server.live = empty
    answer = ask(running, "GET", "/healthz")
    assert answer.status == 503
    assert "damaged" in json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "reason"),
    [
        ("GET", "/", {}, 400, "ask /healthz"),
        ("POST", "/trainer", {"Content_Length": "0"}, 400, "expected interactor, detector"),
        ("POST", "/interactor", {}, 400, "no Content-Length"),
        ("POST", "/interactor", {"Content_Length": "-1"}, 400, "no Content-Length"),
        ("POST", "/interactor", {"Content_Length": str(2**31)}, 413, "the limit is"),
    ],
)
def test_what_is_no_request_is_refused(
    running: Running, method: str, path: str, headers: dict[str, str], status: int, reason: str
) -> None:
    answer = ask(running, method, path, **headers)
    assert (answer.status, answer.content_type) == (status, "application/json")
    assert reason in json.loads(answer.body)["error"]


def test_more_requests_than_there_is_room_for_are_told_to_come_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SILENCE_S", 0.01)
    for _ in range(shared.IN_FLIGHT):
        assert running.server.free.acquire(timeout=1)
    answer = running.function("interactor").post(BOX)
    assert answer.status == 503
    assert b"come again" in answer.body


def test_a_client_that_falls_silent_is_hung_up_on(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(running.server.RequestHandlerClass, "timeout", 1.0)
    answer = ask(running, "POST", "/interactor", b"{", Content_Length="100")
    assert answer.status == 400
    assert "ended before its body" in json.loads(answer.body)["error"]
    assert "bug" not in caplog.text


def test_a_client_that_hangs_up_harms_nobody(running: Running) -> None:
    body = json.dumps(BOX).encode()
    for _ in range(3):
        connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/interactor", body)
        connection.close()
    assert running.function("interactor").post(BOX).status == 200
