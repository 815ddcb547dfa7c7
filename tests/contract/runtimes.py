"""The two runtimes a function must live under: our stand-in's, and Nuclio's own wrapper.

The second plays the processor's part of Nuclio's socket protocol: length-prefixed msgpack events
in, lines out (`s` started, `l` log, `m` metric, `r` response), a second socket for control.
Source: nuclio/nuclio, pkg/processor/runtime/rpc and runtime/python/py/_nuclio_wrapper.py.
"""

import base64
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from demo.processor import Limits, Processor, serving

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = Path(__file__).resolve().parent / "function"


@dataclass(frozen=True)
class Reply:
    """What CVAT would see."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]

    def json(self) -> Any:
        return json.loads(self.body)


class StandIn:
    """The stand-in processor, over HTTP."""

    def __init__(self, client: httpx.Client, url: str) -> None:
        self._client, self._url = client, url

    def post(self, body: bytes, content_type: str = "application/json", path: str = "") -> Reply:
        found = self._client.post(
            self._url + path, content=body, headers={"Content-Type": content_type}
        )
        headers = {name.lower(): value for name, value in found.headers.items()}
        return Reply(found.status_code, found.content, headers["content-type"], headers)


class Wrapper:
    """Nuclio's wrapper in a process of its own, over its sockets."""

    def __init__(self, events: socket.socket, lines: BinaryIO) -> None:
        self._events, self._lines = events, lines
        self.logs: list[dict[str, Any]] = []

    def wait(self, kind: bytes) -> bytes:
        """The rest of the next line of a kind; log lines on the way are kept."""
        for line in self._lines:
            if line[:1] == kind:
                return line[1:]
            if line[:1] == b"l":
                self.logs.append(json.loads(line[1:]))
        raise EOFError("the wrapper ended")

    def post(self, body: bytes, content_type: str = "application/json", path: str = "") -> Reply:
        import msgpack

        event = {
            "content_type": content_type,
            "content-type": content_type,
            "trigger": {"kind": "http", "name": "myHttpTrigger"},
            "fields": {},
            "headers": {"Content-Type": content_type},
            "id": str(uuid.uuid4()),
            "method": "POST",
            "path": "/" + path,
            "size": len(body),
            "timestamp": int(time.time()),
            **dict.fromkeys(("url", "type", "type_version", "version", "topic"), ""),
            **dict.fromkeys(("shard_id", "num_shards", "offset"), 0),
            "body": body,
        }
        packed = msgpack.packb(event, use_bin_type=True)
        self._events.sendall(struct.pack(">i", len(packed)) + packed)
        answer = json.loads(self.wait(b"r"))
        answer = answer[0] if isinstance(answer, list) else answer
        raw = answer["body"]
        encoded = answer.get("body_encoding") == "base64"
        headers = {k.lower(): v for k, v in answer["headers"].items() if isinstance(v, str)}
        return Reply(
            answer["status_code"],
            base64.b64decode(raw) if encoded else raw.encode(),
            answer["content_type"],
            headers,
        )


@contextmanager
def stand_in(folder: Path = FUNCTION) -> Iterator[StandIn]:
    """The stand-in processor with a function, as long as the block lasts."""
    limits = Limits(max_body_bytes=33_554_432, event_timeout_s=300.0)
    with serving(Processor(folder, limits)) as url, httpx.Client(timeout=300.0) as client:
        yield StandIn(client, url)


@contextmanager
def wrapper(path: Path, sockets: Path, folder: Path = FUNCTION) -> Iterator[Wrapper]:
    """Nuclio's own wrapper with a function, as long as the block lasts."""
    with ExitStack() as stack:
        names = [sockets / "event.sock", sockets / "control.sock"]
        listeners = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in names]
        for listener, name in zip(listeners, names, strict=True):
            listener.bind(str(name))
            listener.listen(1)
            listener.settimeout(300)
        arguments = [
            *("--handler", "main:handler", "--platform-kind", "local", "--namespace", "nuclio"),
            *("--event-socket-path", str(names[0]), "--control-socket-path", str(names[1])),
            *("--worker-id", "0", "--trigger-kind", "http", "--trigger-name", "myHttpTrigger"),
            "--decode-event-strings",
        ]
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-u", str(path), *arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])},
            )
        )
        stack.callback(process.kill)
        events, control = (stack.enter_context(each.accept()[0]) for each in listeners)
        drained = stack.enter_context(control.makefile("rb"))
        reader = threading.Thread(target=lambda: [None for _ in drained], daemon=True)
        reader.start()
        lines = stack.enter_context(events.makefile("rb"))
        # First of all in the end: a file that a thread still reads cannot be closed.
        stack.callback(reader.join, 10)
        stack.callback(process.kill)
        running = Wrapper(events, lines)
        running.wait(b"s")
        yield running
