"""Starts stand-in CVAT servers for tests, each a process of its own on a free port."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cvat_sync.settings import Access

START_S = 60.0
TOKEN = "token-of-the-first-user"
USER, PASSWORD = "expert", "secret-word"


@contextmanager
def standin(folder: Path, *options: str) -> Iterator[Access]:
    """A running stand-in and how to reach it."""
    port_file = folder / "port"
    command = [sys.executable, "-m", "demo.standin", "--port", "0", "--data", str(folder / "data")]
    command += ["--port-file", str(port_file), "--user", f"{USER}:{PASSWORD}", "--token", TOKEN]
    process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while not port_file.exists():
            assert process.poll() is None, "the stand-in stopped"
            assert time.monotonic() < deadline, "the stand-in did not start"
            time.sleep(0.05)
        yield Access(url=f"http://127.0.0.1:{port_file.read_text().strip()}", token=TOKEN)
    finally:
        process.terminate()
        process.wait(timeout=20)
