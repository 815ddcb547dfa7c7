"""The student behind a small HTTP API: CVAT's interactor, and whole DICOM files.

Knows HTTP; what an answer is, the handler and `analyse` know. Logs carry no file and no name.
"""

import hmac
import logging
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from casebook.annotations import AnnotationSet
from casebook.documents import Document
from casebook.errors import AngioloopError, TooLargeError
from casebook.handler import Handler, crashed
from casebook.wire import InteractorRequest
from export.answers import StudentSegmenter
from export.bundle import Bundle
from export.findings import Box, FrameResult
from export.infer import analyse
from export.outputs import drawn_masks
from export.pointer import Pointer, box_of

MAX_BODY_BYTES = 256 * 2**20
"""Largest body by default: a run of some 500 frames of 512 px in 16 bits."""
UPLOAD = "upload.dcm"
"""What a file sent to us is called in answers and messages."""
_log = logging.getLogger(__name__)


class Health(Document):
    """What `/healthz` answers."""

    model_id: str
    providers: tuple[str, ...]
    intended_use: str = "Research use; not a medical device."


class Analysed(Document):
    """What `/analyse` answers: measurements, and the masks as COCO."""

    result: FrameResult
    masks: AnnotationSet


class Rules(Document):
    """Who may ask, and how much."""

    token: str | None = Field(default=None, min_length=16)
    """Asked for as `Authorization: Bearer …`; none: everybody who reaches the port may ask."""
    max_body_bytes: int = Field(default=MAX_BODY_BYTES, gt=0)


async def _limited(request: Request, most: int) -> bytes:
    """The body, read no further than the limit.

    Raises:
        TooLargeError: it is longer.
    """
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > most:
            raise TooLargeError(
                f"the body has more than {most} bytes; send one file, or raise --max-mb"
            )
    return bytes(found)


def _refused(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


def _body_of(kind: str, schema: dict[str, object]) -> dict[str, object]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def create_app(
    segmenter: StudentSegmenter, bundle: Bundle, providers: tuple[str, ...], rules: Rules
) -> FastAPI:
    """The service over a loaded student."""
    app = FastAPI(
        title="angioinfer",
        version=bundle.version,
        description="Masks and QCA of X-ray angiograms by a released student. Research use.",
    )
    handler = Handler(segmenter, bundle.labels)
    one_run = threading.Lock()
    """Held while a file is analysed: memory is for one run at a time."""

    @app.middleware("http")
    async def guard(
        request: Request, proceed: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        if request.method != "POST":
            return await proceed(request)
        if rules.token is not None:
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {rules.token}".encode()):
                return _refused(401, "no or another token; send Authorization: Bearer TOKEN")
        wanted = "application/dicom" if request.url.path == "/analyse" else "application/json"
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != wanted:
            return _refused(415, f"content type {kind or 'none'!r}; expected {wanted}")
        return await proceed(request)

    @app.exception_handler(AngioloopError)
    async def refuse(_: Request, problem: AngioloopError) -> JSONResponse:
        _log.warning("refused: %s", type(problem).__name__)
        return _refused(problem.http_status, str(problem))

    @app.exception_handler(Exception)
    async def crash(_: Request, problem: Exception) -> Response:
        _log.error("bug: %s", type(problem).__name__, exc_info=problem)
        return Response(crashed(bundle.version).body, 500, media_type="application/json")

    @app.get("/healthz")
    def health() -> Health:
        """Which student answers, and on what."""
        return Health(model_id=bundle.version, providers=providers)

    async def interact(request: Request) -> Response:
        """CVAT's interactor: an image and clicks or a box in, masks with confidence out."""
        body = await _limited(request, rules.max_body_bytes)
        reply = await run_in_threadpool(handler.reply, "interactor", body)
        _log.info("interactor: status %d", reply.status)
        return Response(reply.body, reply.status, reply.headers, "application/json")

    schema = InteractorRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["image"] = {
        "type": "string", "contentEncoding": "base64", "description": "The image file, e.g. PNG.",
    }  # fmt: skip
    for path in ("/", "/interactor"):
        app.post(path, openapi_extra=_body_of("application/json", schema))(interact)

    def measured(
        payload: bytes, box_xyxy: Box | None, frame: int | None, segment: str | None
    ) -> Analysed:
        label = bundle.labels.find(segment) if segment is not None else None
        with one_run, tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / UPLOAD
            path.write_bytes(payload)
            pointer = Pointer(box_xyxy=box_xyxy, segment=label)
            found = analyse(segmenter, path, "upload", pointer=pointer, frame=frame)
        masks = drawn_masks(found, bundle.labels, bundle.version)
        return Analysed(result=found.result, masks=masks)

    @app.post(
        "/analyse",
        openapi_extra=_body_of("application/dicom", {"type": "string", "format": "binary"}),
    )
    async def analyse_file(
        request: Request,
        box: str | None = None,
        frame: int | None = None,
        segment: str | None = None,
    ) -> Analysed:
        """One XA file: the frame that shows most, the tree, vessels and their measurements."""
        payload = await _limited(request, rules.max_body_bytes)
        return await run_in_threadpool(measured, payload, box_of(box), frame, segment)

    return app
