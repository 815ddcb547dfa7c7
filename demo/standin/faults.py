"""A worse network on purpose: latency on every call, and failures at a chosen rate."""

import asyncio
import random

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SPARED = frozenset({"/api/server/about", "/api/auth/login"})


class Faults:
    """ASGI middleware that delays calls and fails some of them, before or after their effect.

    A failure after the effect is the one that tests a client: the work is done and the answer is
    lost. A call that hangs is answered by nobody: only the client's own timeout ends it.
    """

    def __init__(
        self, app: ASGIApp, latency_s: float, rate: float, seed: int, hang_rate: float = 0.0
    ) -> None:
        self._app, self._latency_s, self._rate = app, latency_s, rate
        self._hang_rate = hang_rate
        self._random = random.Random(seed)  # noqa: S311 - not for secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, delayed, perhaps answered 503 or 429 instead."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._latency_s:
            await asyncio.sleep(self._latency_s)
        if scope["path"] not in _SPARED and self._random.random() < self._hang_rate:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        if scope["path"] in _SPARED or self._random.random() >= self._rate:
            await self._app(scope, receive, send)
            return
        if self._random.random() < 0.5:

            async def discard(_: Message) -> None:
                return

            await self._app(scope, receive, discard)
            await _fail(send, 503)
            return
        while (await receive()).get("more_body"):
            pass
        await _fail(send, self._random.choice((429, 502, 503, 504)))


async def _fail(send: Send, status: int) -> None:
    body = b'{"detail":"stand-in: a fault was asked for"}'
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
