"""One model for all functions and workers of a machine: the handler behind a small HTTP server.

    python -m serverless.shared --host 0.0.0.0 --port 8090

Functions whose ANGIOLOOP_SHARED names it pass their requests on (serverless/forward.py): one copy
of the weights, one embedding an image, tracks that every worker knows. It has no login of its own
and belongs into the network of the functions. Knows no Nuclio.
"""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast, get_args

import click

from casebook.errors import AngioloopError, BusyError, ConfigError, PromptError, TooLargeError
from casebook.handler import Handler, Kind, Reply, crashed, refused
from casebook.wire import MAX_BODY_BYTES
from serverless.live import LiveModel
from serverless.models import live_model

PORT = 8090
IN_FLIGHT = 16
"""Requests that are worked on or wait for the model; more are told to come again."""
SILENCE_S = 30.0
"""A client that sends nothing for so long is hung up on."""
_log = logging.getLogger(__name__)


class Server(ThreadingHTTPServer):
    """Listens for the functions; holds the model in use."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], live: "LiveModel[Any]") -> None:
        super().__init__(address, _Requests)
        self.live = live
        self.free = threading.BoundedSemaphore(IN_FLIGHT)


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SILENCE_S
    # Head and body leave in one packet: else Nagle and delayed acknowledgement cost 40 ms a reply.
    wbufsize = 65_536
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        """Whether a model answers, for health checks: 200 and its id, or 503 and the reason."""
        if self.path != "/healthz":
            self._send(refused(PromptError(f"nothing is at {self.path[:80]}; ask /healthz")))
            return
        try:
            named = self.server.live.handler().model_id
        except AngioloopError as problem:
            self._send(refused(problem))
            return
        body = json.dumps({"model_id": named})
        self._send(Reply(200, body, {"X-Model-Id": named}, {}))

    def do_POST(self) -> None:
        """A request of one of the functions."""
        kind = self.path.strip("/")
        try:
            reply = self._reply(kind, self._body())
        except AngioloopError as problem:
            self.close_connection = True  # what is left of the body is not read
            reply = refused(problem)
        except Exception:  # noqa: BLE001 - an edge: the client gets no trace of ours
            _log.exception("bug")
            reply = crashed()
        _log.info(json.dumps({"message": "request", **reply.log}))
        self._send(reply)

    def _body(self) -> bytes:
        declared = self.headers.get("Content-Length") or ""
        if not declared.isdecimal():
            raise PromptError("the request has no Content-Length; send one")
        if int(declared) > MAX_BODY_BYTES:
            raise TooLargeError(f"request of {declared} bytes; the limit is {MAX_BODY_BYTES}")
        try:
            return self.rfile.read(int(declared))
        except OSError:  # silence, or hung up
            raise PromptError("the request ended before its body; send it again") from None

    def _reply(self, kind: str, body: bytes) -> Reply:
        if kind not in get_args(Kind):
            raise PromptError(f"function {kind[:80]!r}; expected {', '.join(get_args(Kind))}")
        if not self.server.free.acquire(timeout=SILENCE_S):
            raise BusyError(f"{IN_FLIGHT} requests wait already; come again")
        try:
            handler: Handler = self.server.live.handler()
            return handler.reply(cast(Kind, kind), body)
        finally:
            self.server.free.release()

    def _send(self, reply: Reply) -> None:
        payload = reply.body.encode()
        try:
            self.send_response(reply.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)
        except OSError:  # nobody listens any more
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: each request has a line of its own."""


def open_server(host: str, port: int) -> Server:
    """A server that listens, with the model in use loaded.

    Raises:
        ConfigError: a setting is wrong, or the port is taken.
    """

    def tell(message: str, fields: dict[str, str]) -> None:
        _log.info(json.dumps({"message": message, **fields}))

    try:
        return Server((host, port), live_model(tell))
    except OSError as problem:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({problem.strerror}); give another --port"
        ) from None


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, help="0 picks a free port.")
def main(host: str, port: int) -> None:
    """Serve one model to all functions of this machine.

    Example: python -m serverless.shared --host 0.0.0.0
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        server = open_server(host, port)
    except AngioloopError as problem:
        raise click.ClickException(str(problem)) from None
    click.echo(f"serving at http://{host}:{server.server_address[1]}/", err=True)
    with server:
        server.serve_forever()


if __name__ == "__main__":
    main()
