"""The function when the model lives in the shared process: each request is passed on to it.

Needs neither torch nor the ONNX runtime, so that any number of functions and workers cost one
model's memory, and see one memory of images and tracks (serverless/shared.py).
"""

import http.client
import json
import socket
from urllib.parse import urlsplit

from nuclio_sdk import Context, Event, Response

from casebook.errors import AngioloopError, ConfigError, ModelError
from casebook.handler import Kind, Reply, Watch, finished, refused
from serverless.door import response_of

TIMEOUT_S = 55.0
"""Below the functions' eventTimeout, so that a late answer costs no worker."""
_PASSED = ("X-Model-Id", "Server-Timing")


class Forwarder:
    """One deployed function without a model; keeps its connection to the shared process."""

    def __init__(self, kind: Kind, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """A function over a shared process.

        Raises:
            ConfigError: the address is not http://HOST:PORT.
        """
        found = urlsplit(url)
        if found.scheme != "http" or not found.hostname or found.path.strip("/"):
            raise ConfigError(f"ANGIOLOOP_SHARED is {url!r}; expected http://HOST:PORT")
        self._kind = kind
        self._connection = http.client.HTTPConnection(
            found.hostname, found.port or 80, timeout=timeout_s
        )

    def answer(self, context: Context, event: Event) -> Response:
        """The shared process's answer to an event, or why there is none."""
        watch = Watch()
        try:
            with watch.stage("pass"):
                reply = self._pass_on(_bytes_of(event.body))
        except AngioloopError as problem:
            reply = refused(problem)
        context.logger.info_with("request", **{**reply.log, "pass_ms": watch.spent_ms["pass"]})
        return response_of(reply)

    def close(self) -> None:
        """Give the connection back; the next request opens another."""
        self._connection.close()

    def _pass_on(self, body: bytes) -> Reply:
        for last in (False, True):
            try:
                return self._ask(body)
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                # The process was restarted since the last request. Asking twice changes nothing.
                self._connection.close()
                if last:
                    break
            except (OSError, http.client.HTTPException) as problem:
                self._connection.close()
                kind = "in time" if isinstance(problem, socket.timeout) else "at all"
                raise ModelError(
                    f"the shared model process does not answer {kind}; {_HOW}"
                ) from None
        raise ModelError(f"the shared model process ends each request; {_HOW}")

    def _ask(self, body: bytes) -> Reply:
        self._connection.request(
            "POST", f"/{self._kind}", body, {"Content-Type": "application/json"}
        )
        with self._connection.getresponse() as answer:
            text = answer.read().decode()
            headers = {name: answer.getheader(name) or "" for name in _PASSED}
        named = headers["X-Model-Id"] or "none"
        plain = finished(text, answer.status, named, Watch(), {"function": self._kind})
        return Reply(plain.status, plain.body, headers, plain.log)


_HOW = "start angioloop_model, see docs/deploy.md"


def _bytes_of(body: object) -> bytes:
    """A body as it was sent: Nuclio has parsed what came as JSON."""
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    return json.dumps(body).encode()
