"""Starts stand-in CVAT servers and functions for tests, each on a free port."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cvat_sync.settings import Access

START_S = 300.0
TOKEN = "token-of-the-first-user"
USER, PASSWORD = "expert", "secret-word"


@contextmanager
def standin(
    folder: Path, *options: str, started: list["subprocess.Popen[bytes]"] | None = None
) -> Iterator[Access]:
    """A running stand-in and how to reach it; its process goes into `started`, to be killed."""
    port_file = folder / "port"
    command = [sys.executable, "-m", "demo.standin", "--port", "0", "--data", str(folder / "data")]
    command += ["--port-file", str(port_file), "--user", f"{USER}:{PASSWORD}", "--token", TOKEN]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    if started is not None:
        started.append(process)
    try:
        deadline = time.monotonic() + START_S
        while not port_file.exists():
            assert process.poll() is None, "the stand-in stopped"
            assert time.monotonic() < deadline, "the stand-in did not start"
            time.sleep(0.05)
        yield Access(url=f"http://127.0.0.1:{port_file.read_text().strip()}", token=TOKEN)
    finally:
        process.terminate()
        process.wait(timeout=60)


class SaidFunction:
    """A function that remembers what it was asked and answers what it is told."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.status = 200
        self.answer: Any = {"shapes": []}
        self.url = ""


@contextmanager
def said_function() -> Iterator[SaidFunction]:
    """A running function."""
    function = SaidFunction()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            function.asked.append({"type": self.headers["Content-Type"], **body})
            payload = json.dumps(function.answer).encode()
            self.send_response(function.status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    function.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield function
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
