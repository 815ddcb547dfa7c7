"""An address at which something answers that is not CVAT: one honest line, whatever is asked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from casebook.rounds import RoundFolder
from cvat_sync.settings import Access
from tests.contract.cvat_rounds import cvatsync, set_up
from tests.contract.cvat_servers import PASSWORD, TOKEN, USER
from tests.fakes.cvat_memory import MemoryCvat, pushed_round
from tests.fakes.cvat_round import make_round

ELSEWHERE = "https://cvat.hospital.example/start"


@contextmanager
def other_service(status: int, body: bytes) -> Iterator[str]:
    """The address of a service that gives one answer to everything."""

    class Requests(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Location", ELSEWHERE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Requests) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RoundFolder:
    """A round that is ready to be pushed."""
    set_up(monkeypatch, Access(url="http://nowhere", token=TOKEN), tmp_path, "frames_per_task: 2")
    return make_round(tmp_path)


@pytest.mark.parametrize("verb", ["push", "status", "pull", "open", "effort", "comment", "doctor"])
@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        pytest.param(200, b"<!doctype html><p>welcome", "own address", id="a page"),
        pytest.param(200, b'{"count": 1}', "own address", id="another interface"),
        pytest.param(200, b"[]", "own address", id="a list"),
        pytest.param(301, b"", f"sends on to {ELSEWHERE}; set ANGIOLOOP_CVAT_URL", id="moved"),
    ],
)
def test_what_is_not_cvat_is_told_in_one_line(
    folder: RoundFolder,
    verb: str,
    status: int,
    body: bytes,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if verb != "push":
        pushed = pushed_round(folder, MemoryCvat(folder))
        folder.file("pushed.json").write_text(pushed.model_dump_json(by_alias=True))
    with other_service(status, body) as url:
        monkeypatch.setenv("ANGIOLOOP_CVAT_URL", url)
        result = cvatsync(folder, verb)
    told = next(line for line in result.output.splitlines() if "ANGIOLOOP_CVAT_URL" in line)
    assert result.exit_code == (1 if verb == "doctor" else 8)
    assert says in told
    assert url in told or verb == "doctor"


@pytest.mark.parametrize(
    "body", [b"<!doctype html>", b'{"count": 1}', b"[]"], ids=["a page", "another", "a list"]
)
def test_a_password_given_to_what_is_not_cvat_is_told_in_one_line(
    folder: RoundFolder, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANGIOLOOP_CVAT_TOKEN")
    monkeypatch.setenv("ANGIOLOOP_CVAT_USER", USER)
    monkeypatch.setenv("ANGIOLOOP_CVAT_PASSWORD", PASSWORD)
    with other_service(200, body) as url:
        monkeypatch.setenv("ANGIOLOOP_CVAT_URL", url)
        result = cvatsync(folder, "push")
    assert result.exit_code == 8
    assert "cannot be read as CVAT's; check that ANGIOLOOP_CVAT_URL" in result.stderr
    assert PASSWORD not in result.output
