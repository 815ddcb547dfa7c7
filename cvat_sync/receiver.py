"""The watch's small web service: CVAT's deliveries in, its health out.

Knows HTTP; what a delivery means is the inbox's business.
"""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool

from casebook.errors import AngioloopError, TooLargeError
from cvat_sync.deliveries import MAX_BODY_BYTES, Inbox
from cvat_sync.watch import Sight, Watch

PATH = "/cvat"
"""Where CVAT sends its deliveries."""
_log = logging.getLogger(__name__)


class Health(BaseModel):
    """What `/healthz` answers."""

    model_config = ConfigDict(frozen=True)

    is_well: bool
    sight: Sight


async def _limited(request: Request) -> bytes:
    """The raw body, read no further than the limit.

    Raises:
        TooLargeError: it is longer.
    """
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > MAX_BODY_BYTES:
            raise TooLargeError(
                f"the delivery has more than {MAX_BODY_BYTES} bytes; CVAT's have about 3 kB"
            )
    return bytes(found)


def create_app(watch: Watch, inbox: Inbox | None) -> FastAPI:
    """The service; without an inbox it only tells its health, and the watch polls."""
    app = FastAPI(title="cvatsync watch", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(AngioloopError)
    async def refuse(_: Request, problem: AngioloopError) -> JSONResponse:
        _log.warning("delivery refused: %s", problem)
        return JSONResponse({"error": str(problem)}, problem.http_status)

    @app.get("/healthz")
    def health() -> JSONResponse:
        answer = Health(is_well=watch.is_alive, sight=watch.sight)
        return JSONResponse(answer.model_dump(mode="json"), 200 if answer.is_well else 503)

    if inbox is not None:

        @app.post(PATH)
        async def deliver(request: Request) -> JSONResponse:
            body = await _limited(request)
            signature = request.headers.get("x-signature-256")
            outcome = await run_in_threadpool(inbox.take, body, signature)
            if outcome == "accepted":
                watch.nudge()
            return JSONResponse({"outcome": outcome}, 202 if outcome == "accepted" else 200)

    return app
