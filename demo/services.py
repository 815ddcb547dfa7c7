"""Starts and stops what the walk needs around it: the stand-in CVAT and the function processor.

Each is a process of its own, listening on localhost. Knows nothing of rounds.
"""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from casebook.documents import write_bytes
from casebook.errors import UnreachableError

START_S = 900.0
"""A service that lives and has not answered after this long hangs: loading torch may take minutes.
One that ends is noticed at once."""


@dataclass(frozen=True)
class Services:
    """Where the running services are."""

    cvat_url: str
    cvat_token: str


def secret(path: Path) -> str:
    """A token made once and kept, readable by its owner alone."""
    if not path.exists():
        write_bytes(path, secrets.token_urlsafe(24).encode(), mode=0o600)
    return path.read_text(encoding="utf-8").strip()


@contextmanager
def service(name: str, arguments: list[str], folder: Path, env: dict[str, str]) -> Iterator[int]:
    """A running module and the port it listens on; stopped at the end.

    Raises:
        UnreachableError: it ended or gave no port in time; its log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log_path = folder / f"{name}.port", folder / f"{name}.log"
    last_port = port_file.read_text().strip() if port_file.exists() else "0"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", *arguments, "--port-file", str(port_file), "--port", last_port]
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})
        try:
            yield _port(process, port_file, log_path, name)
        finally:
            process.terminate()
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: "subprocess.Popen[bytes]", port_file: Path, log: Path, name: str) -> int:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        text = port_file.read_text().strip() if port_file.exists() else ""
        if text.isdigit():
            return int(text)
        if process.poll() is not None:
            raise UnreachableError(f"{name} ended with code {process.returncode}; see {log}")
        time.sleep(0.1)
    raise UnreachableError(f"{name} did not answer within {START_S:.0f} s; see {log}")


@contextmanager
def services(home: Path, env: dict[str, str]) -> Iterator[Services]:
    """The stand-in CVAT with the interactor function behind it."""
    folder = home / "services"
    token = secret(folder / "expert.token")
    with ExitStack() as stack:
        function = stack.enter_context(
            service(
                "interactor",
                ["demo.processor", "--function", "serverless/interactor"],
                folder,
                env,
            )
        )
        cvat = stack.enter_context(
            service(
                "cvat",
                [
                    "demo.standin",
                    *("--data", str(home / "standin-cvat")),
                    *("--function", f"angioloop-interactor=http://127.0.0.1:{function}"),
                ],
                folder,
                {**env, "ANGIOLOOP_STANDIN_TOKEN": token},
            )
        )
        yield Services(f"http://127.0.0.1:{cvat}", token)
