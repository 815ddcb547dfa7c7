"""The stand-in processor has the traps of Nuclio's own."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from casebook.errors import ConfigError
from demo.processor import Limits, Processor, limits_of, serving
from tests.fakes.broken_requests import BOX

ROOT = Path(__file__).resolve().parents[3]
FUNCTION = ROOT / "tests" / "contract" / "function"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    limits = Limits(max_body_bytes=10_000, event_timeout_s=2.0, free_worker_s=0.1)
    with serving(Processor(FUNCTION, limits)) as address:
        yield address


@pytest.mark.parametrize(
    ("content_type", "body", "kind"),
    [
        ("application/json", b"{}", "dict"),
        ("application/json; charset=utf-8", b"{}", "bytes"),
        ("text/plain", b"{}", "bytes"),
        ("application/json", b"not json", "bytes"),
        ("application/json", b"[" * 5000, "bytes"),
    ],
)
def test_only_the_exact_content_type_is_parsed(
    url: str, content_type: str, body: bytes, kind: str
) -> None:
    reply = httpx.post(url + "events", content=body, headers={"Content-Type": content_type})
    assert reply.json()["body"] == kind


def test_an_exception_sends_its_traceback(url: str) -> None:
    reply = httpx.post(url + "raise", content=b"{}", headers=JSON)
    assert reply.status_code == 500
    assert reply.headers["content-type"] == "text/plain"
    assert "Traceback" in reply.text


def test_a_bare_list_is_taken_for_a_batch(url: str) -> None:
    assert httpx.post(url + "list", content=b"{}", headers=JSON).json() == {"label": "first"}


def test_a_header_that_is_not_text_is_dropped(url: str) -> None:
    reply = httpx.post(url + "headers", content=b"{}", headers=JSON)
    assert reply.headers["x-text"] == "1"
    assert "x-number" not in reply.headers
    assert reply.content == b"\x00\xff"


def test_not_a_number_becomes_text(url: str) -> None:
    assert httpx.post(url + "nan", content=b"{}", headers=JSON).json() == {"value": "NaN"}


def test_a_large_body_is_refused_unread(url: str) -> None:
    assert httpx.post(url, content=b"x" * 10_001, headers=JSON).status_code == 413


def test_health_answers_beside_the_worker(url: str) -> None:
    assert httpx.get(url + "__internal/health").status_code == 200


def test_a_slow_event_times_out_and_a_fresh_worker_serves_on(url: str) -> None:
    for _ in range(2):
        before = httpx.post(url + "events", content=b"{}", headers=JSON).json()["events"]
    slow = httpx.post(url + "sleep?s=2.5", content=b"{}", headers=JSON)
    assert (slow.status_code, slow.json()) == (408, {"error": "handler timed out"})
    after = httpx.post(url + "events", content=b"{}", headers=JSON).json()["events"]
    assert before > 1
    assert after == 1


def test_no_free_worker_is_503(tmp_path: Path) -> None:
    processor, found = Processor(FUNCTION, Limits(free_worker_s=0.1)), list[int]()
    enough = tmp_path / "enough"

    def occupy(url: str) -> None:
        asked = httpx.post(f"{url}wait?for={enough}", content=b"{}", headers=JSON, timeout=600)
        found.append(asked.status_code)

    with serving(processor) as url:
        thread = threading.Thread(target=occupy, args=(url,))
        thread.start()
        try:
            while not processor._free.empty():
                time.sleep(0.01)
            for _ in range(2):
                assert httpx.post(url + "events", content=b"{}", headers=JSON).status_code == 503
        finally:
            enough.touch()
            thread.join()
    assert found == [200]


def test_limits_come_from_the_function_yaml(tmp_path: Path) -> None:
    assert limits_of(tmp_path) == Limits()
    spec = {
        "eventTimeout": "2m",
        "triggers": {"http": {"kind": "http", "attributes": {"maxRequestBodySize": 5}}},
    }
    (tmp_path / "function.yaml").write_text(json.dumps({"spec": spec}))
    limits = limits_of(tmp_path)
    assert (limits.max_body_bytes, limits.event_timeout_s, limits.free_worker_s) == (5, 120, 10)
    (tmp_path / "function.yaml").write_text(json.dumps({"spec": {"eventTimeout": "500ms"}}))
    with pytest.raises(ConfigError, match="no trigger"):
        limits_of(tmp_path)


def test_a_folder_without_a_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no main\.py"):
        Processor(tmp_path)


def test_a_function_that_is_killed_comes_back_serving_on_its_port(tmp_path: Path) -> None:
    shape = {"type": "rectangle", "points": [8, 8, 42, 20]}
    body = {"image": BOX["image"], "shapes": [shape]}
    port_file = tmp_path / "port"
    command = [sys.executable, "-m", "demo.processor", "--restart", "--function", str(FUNCTION)]
    keeper = subprocess.Popen(
        [*command, "--port-file", str(port_file)],
        cwd=ROOT,
        env={**os.environ, "TEST_FUNCTION_KIND": "tracker"},
        stderr=subprocess.DEVNULL,
    )

    def post(request: dict[str, object]) -> httpx.Response:
        deadline = time.monotonic() + 300
        while True:
            try:
                url = f"http://127.0.0.1:{port_file.read_text().strip()}/"
                return httpx.post(url, content=json.dumps(request), headers=JSON, timeout=60)
            except (httpx.TransportError, FileNotFoundError):
                assert keeper.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)

    try:
        started = post(body).json()
        known = {"image": body["image"], "states": started["states"]}
        assert post(known).status_code == 200
        (worker,) = psutil.Process(keeper.pid).children()
        worker.kill()
        worker.wait()
        again = post(body)
        assert (again.status_code, again.json()["shapes"]) == (200, started["shapes"])
        refused = post(known)
        assert refused.status_code == 409
        assert "start from a shape again" in refused.json()["error"]
    finally:
        (worker,) = psutil.Process(keeper.pid).children()
        keeper.terminate()
        keeper.wait(timeout=60)
    assert not worker.is_running()
