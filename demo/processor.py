"""A stand-in for Nuclio's processor: runs a function's `main.py` behind HTTP, traps included.

The body is a mapping only for exactly `application/json`; an exception is answered as 500 text with
its traceback; a bare list counts as a batch, of which the client gets the first; header values that
are not text are dropped; a body over the limit is 413, an event over its time 408 and a fresh
worker, no free worker 503. A worker that dies takes the whole processor down, which `--restart`
brings back as Docker does. One process and one event at a time. Event, context and response are
nuclio_sdk's own. Source: nuclio/nuclio, pkg/processor/trigger/http and runtime/python/py.

    python -m demo.processor --function serverless/interactor --port 8001
"""

import base64
import contextlib
import importlib.util
import json
import logging
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import click
import nuclio_sdk
import nuclio_sdk.logger
import yaml
from nuclio_sdk.event import TriggerInfo
from nuclio_sdk.json_encoder import Encoder

from casebook.documents import Document, write_bytes
from casebook.errors import ConfigError

DEFAULT_BODY_BYTES = 4 * 1024 * 1024
"""Nuclio's limit when a function.yaml names none."""
RESTART_S = 0.1
"""What Docker waits before it starts a container again."""


class Limits(Document):
    """What a function.yaml says of one event."""

    max_body_bytes: int = DEFAULT_BODY_BYTES
    event_timeout_s: float | None = None
    free_worker_s: float = 10.0


@dataclass(frozen=True)
class Answer:
    """What the processor sends back."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


def limits_of(folder: Path) -> Limits:
    """The limits in a folder's function.yaml, or Nuclio's defaults when it has none.

    Raises:
        ConfigError: the file has no HTTP trigger.
    """
    path = folder / "function.yaml"
    if not path.exists():
        return Limits()
    spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    triggers = [each for each in spec.get("triggers", {}).values() if each.get("kind") == "http"]
    if not triggers:
        raise ConfigError(f"{path}: no trigger of kind http; add one")
    trigger = triggers[0]
    return Limits(
        max_body_bytes=trigger.get("attributes", {}).get("maxRequestBodySize", DEFAULT_BODY_BYTES),
        event_timeout_s=_seconds(spec.get("eventTimeout")),
        free_worker_s=trigger.get("workerAvailabilityTimeoutMilliseconds", 10_000) / 1000,
    )


def _seconds(duration: str | None) -> float | None:
    """Seconds of a duration as Go writes it in these files, for instance 30s or 2m."""
    if duration is None:
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    number = duration.rstrip("mhs")
    return float(number) * units[duration.removeprefix(number)]


class Worker:
    """One imported function with its context; runs one event at a time in its own thread."""

    def __init__(self, folder: Path, worker_id: int = 0) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nuclio-worker")
        self._module = _imported(folder)
        name = f"function.{uuid.uuid4().hex}"
        logger = nuclio_sdk.logger.Logger(logging.INFO, name)
        logging.getLogger(name).propagate = False  # a line is written once
        logger.set_handler("default", sys.stderr, nuclio_sdk.logger.HumanReadableFormatter())
        trigger = TriggerInfo("http", "myHttpTrigger")
        self.context = nuclio_sdk.Context(logger, worker_id=worker_id, trigger=trigger)
        if hasattr(self._module, "init_context"):
            self._module.init_context(self.context)

    def submit(self, event: nuclio_sdk.Event) -> "Future[Answer]":
        """Run the function on an event."""
        return self._thread.submit(self._run, event)

    def close(self) -> None:
        """Take no more events; one that runs is left to end on its own."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _run(self, event: nuclio_sdk.Event) -> Answer:
        try:
            output = self._module.handler(self.context, event)
        except Exception:  # noqa: BLE001 - this is the trap: Nuclio sends the traceback
            return Answer(500, traceback.format_exc().encode(), "text/plain")
        if isinstance(output, list):  # Nuclio 1.14 and later: a batch, the client gets its first
            output = output[0] if output else ""
        document = nuclio_sdk.Response.from_entrypoint_output(Encoder().encode, output)
        body = document["body"]
        encoded = document["body_encoding"] == "base64"
        return Answer(
            int(document["status_code"]) or 200,
            base64.b64decode(body) if encoded else str(body).encode(),
            str(document["content_type"]),
            tuple((k, v) for k, v in document["headers"].items() if isinstance(v, str)),
        )


def _imported(folder: Path) -> Any:
    """A fresh `main` with the function's folder on the path, as Nuclio's wrapper imports it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found = importlib.util.spec_from_file_location("main", folder / "main.py")
    if found is None or found.loader is None or not (folder / "main.py").is_file():
        raise ConfigError(f"{folder} has no main.py; give a function's folder")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Processor:
    """Hands events to the one worker, within the limits of the function."""

    def __init__(self, folder: Path, limits: Limits | None = None) -> None:
        self._folder = folder.resolve()
        self.limits = limits or limits_of(self._folder)
        self._free: queue.Queue[Worker] = queue.Queue()
        self._free.put(Worker(self._folder))

    def invoke(self, event: nuclio_sdk.Event) -> Answer:
        """The function's answer, or the processor's own."""
        try:
            worker = self._free.get(timeout=self.limits.free_worker_s)
        except queue.Empty:
            return Answer(503)
        try:
            return worker.submit(event).result(self.limits.event_timeout_s)
        except FutureTimeoutError:
            worker.close()
            worker = Worker(self._folder)
            return Answer(408, b'{"error": "handler timed out"}')
        finally:
            self._free.put(worker)


def event_of(
    method: str, url: str, headers: dict[str, str], body: bytes, timestamp: datetime
) -> nuclio_sdk.Event:
    """An HTTP request as Nuclio's wrapper gives it to a function."""
    path, _, search = url.partition("?")
    content_type = headers.get("Content-Type", "")
    payload: object = body
    if content_type == "application/json":
        with contextlib.suppress(ValueError, RecursionError):  # not JSON: the bytes as they are
            payload = json.loads(body.decode("utf-8"))
    return nuclio_sdk.Event(
        body=payload,
        content_type=content_type,
        trigger=TriggerInfo("http", "myHttpTrigger"),
        fields=dict(parse_qsl(search)),
        headers=headers,
        _id=str(uuid.uuid4()),
        method=method,
        path=path,
        size=len(body),
        timestamp=timestamp,
        url=url,
    )


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave in one packet: else Nagle and delayed acknowledgement cost 40 ms a reply.
    wbufsize = 65_536
    disable_nagle_algorithm = True
    processor: Processor

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def _serve(self) -> None:
        if self.path.startswith("/__internal/health"):
            self._send(Answer(200))
            return
        declared = self.headers.get("Content-Length") or "0"
        if not declared.isdecimal():
            self._send(Answer(400, b"Content-Length is not a number"))
            return
        length = int(declared)
        if length > self.processor.limits.max_body_bytes:
            self.close_connection = True
            self._send(Answer(413, b"Request body is too large"))
            return
        body = self.rfile.read(length)
        event = event_of(
            self.command, self.path, dict(self.headers.items()), body, datetime.now(UTC)
        )
        self._send(self.processor.invoke(event))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the function's own log has a line a request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _server(processor: Processor, port: int) -> _Server:
    kind = type("Requests", (_Requests,), {"processor": processor})
    try:
        return _Server(("127.0.0.1", port), kind)
    except OSError:  # the port of last time is taken by another program
        return _Server(("127.0.0.1", 0), kind)


@contextlib.contextmanager
def serving(processor: Processor, port: int = 0) -> Iterator[str]:
    """The URL of a processor that listens as long as the block lasts."""
    server = _server(processor, port)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _kept_running(command: list[str]) -> None:
    """Run a program as Docker runs a container with `restart: always`, until told to stop."""
    stopped = False
    child = subprocess.Popen(command)

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        child.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        code = child.wait()
        if stopped:
            return
        print(f"stand-in processor: ended with {code}; starting it again", file=sys.stderr)
        time.sleep(RESTART_S)
        child = subprocess.Popen(command)


@click.command(help="Run a function behind HTTP: --function serverless/interactor --port 8001")
@click.option("--function", "folder", type=click.Path(path_type=Path), required=True)
@click.option("--port", default=0, show_default=True, help="0 takes a free one.")
@click.option("--port-file", type=click.Path(path_type=Path), help="Written when it is ready.")
@click.option("--restart", is_flag=True, help="Start it again when it dies, on the same port.")
def main(folder: Path, port: int, port_file: Path | None, restart: bool) -> None:
    """Serve until told to stop."""
    if restart:
        if port == 0:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        ready = ["--port-file", str(port_file)] if port_file is not None else []
        program = [sys.executable, "-m", "demo.processor", "--function", str(folder)]
        _kept_running([*program, "--port", str(port), *ready])
        return
    server = _server(Processor(folder), port)
    bound = server.server_address[1]
    if port_file is not None:
        write_bytes(port_file, f"{bound}\n".encode())
    print(f"stand-in processor: {folder} at http://127.0.0.1:{bound}/", file=sys.stderr)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main()
