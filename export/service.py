"""The student behind a small HTTP API: CVAT's interactor, and whole DICOM files.

Knows HTTP; what an answer is, the handler and `analyse` know. Logs carry no file and no name.
"""

import hmac
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from casebook.annotations import AnnotationSet
from casebook.documents import Document
from casebook.errors import AngioloopError, PromptError, TooLargeError
from casebook.handler import Handler, crashed
from casebook.wire import InteractorRequest, Refusal
from export.answers import StudentSegmenter
from export.bundle import Bundle
from export.findings import FrameResult
from export.infer import analyse
from export.outputs import drawn_masks
from export.pointer import Pointer, point_of, shown_of
from export.runtime import OnnxGraphs

MAX_BODY_BYTES = 256 * 2**20
"""Largest body by default: a run of some 500 frames of 512 px in 16 bits."""
UPLOAD = "upload.dcm"
"""What a file sent to us is called in answers and messages."""
_REFUSALS: dict[int | str, dict[str, object]] = {
    status: {"model": Refusal, "description": text}
    for status, text in (
        (400, "the request is not one"),
        (401, "no or another token"),
        (413, "the body is too long"),
        (415, "another content type is expected"),
        (422, "the file or the picture cannot be used"),
        (500, "a bug"),
    )
}
_BOX = "x1,y1,x2,y2 in px around the vessel to measure"
_POINT = "x,y in px on that vessel; repeatable"
_OUTSIDE = "x,y in px beside it; repeatable"
_FRAME = "frame, from 0; else the one that shows most"
_SEGMENT = "what the vessel shown is, a label of the bundle"
_log = logging.getLogger(__name__)


class Health(Document):
    """What `/healthz` answers."""

    model_id: str
    providers: tuple[str, ...]
    threads: int
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


async def _pieces(request: Request, most: int) -> AsyncIterator[bytes]:
    """The body piece by piece, no further than the limit.

    Raises:
        TooLargeError: it is longer.
    """
    found = 0
    async for piece in request.stream():
        found += len(piece)
        if found > most:
            raise TooLargeError(
                f"the body has more than {most} bytes; send one file, or raise --max-mb"
            )
        yield piece


def _pointer(
    bundle: Bundle, box: str | None, points: list[str], outside: list[str], segment: str | None
) -> Pointer:
    """What a caller shows of the vessel to measure.

    Raises:
        PromptError: it is not numbers, or there is no vessel to name or to take away from.
        DataError: the segment is no label of the bundle.
    """
    box_xyxy, inside_xy = shown_of(box, points, ())
    if (segment or outside) and box_xyxy is None and not inside_xy:
        raise PromptError(
            "segment names the vessel shown and outside takes away from it; give its box or point"
        )
    label = bundle.labels.find(segment) if segment is not None else None
    return Pointer(box_xyxy, inside_xy, tuple(point_of(text) for text in outside), label)


def _refused(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


def _body_of(kind: str, schema: dict[str, object]) -> dict[str, object]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def create_app(
    segmenter: StudentSegmenter, bundle: Bundle, graphs: OnnxGraphs, rules: Rules
) -> FastAPI:
    """The service over a loaded student."""
    app = FastAPI(
        title="angioinfer",
        version=bundle.version,
        description="Masks and QCA of X-ray angiograms by a released student. Research use.",
    )
    bearer = HTTPBearer(auto_error=False, description="The service's token.")
    """For the description alone: `guard` asks for it, also before a body is read."""
    guarded = [Depends(bearer)] if rules.token is not None else []
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

    @app.exception_handler(RequestValidationError)
    async def misread(_: Request, problem: RequestValidationError) -> JSONResponse:
        found = problem.errors()[0]
        return _refused(400, f"{found['loc'][-1]}: {found['msg']}; correct it, see /docs")

    @app.exception_handler(Exception)
    async def crash(_: Request, problem: Exception) -> Response:
        _log.error("bug: %s", type(problem).__name__, exc_info=problem)
        return Response(crashed(bundle.version).body, 500, media_type="application/json")

    @app.get("/healthz")
    def health() -> Health:
        """Which student answers, and on what."""
        return Health(model_id=bundle.version, providers=graphs.providers, threads=graphs.threads)

    async def interact(request: Request) -> Response:
        """CVAT's interactor: an image and clicks or a box in, masks with confidence out."""
        body = b"".join([piece async for piece in _pieces(request, rules.max_body_bytes)])
        reply = await run_in_threadpool(handler.reply, "interactor", body)
        _log.info("interactor: status %d", reply.status)
        return Response(reply.body, reply.status, reply.headers, "application/json")

    schema = InteractorRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["image"] = {
        "type": "string", "contentEncoding": "base64", "description": "The image file, e.g. PNG.",
    }  # fmt: skip
    for path in ("/", "/interactor"):
        app.post(
            path,
            openapi_extra=_body_of("application/json", schema),
            responses=_REFUSALS,
            dependencies=guarded,
        )(interact)

    def measured(path: Path, pointer: Pointer, frame: int | None) -> Analysed:
        with one_run:
            found = analyse(segmenter, path, "upload", pointer=pointer, frame=frame)
        masks = drawn_masks(found, bundle.labels, bundle.version)
        return Analysed(result=found.result, masks=masks)

    @app.post(
        "/analyse",
        openapi_extra=_body_of("application/dicom", {"type": "string", "format": "binary"}),
        responses=_REFUSALS,
        dependencies=guarded,
    )
    async def analyse_file(
        request: Request,
        box: Annotated[str | None, Query(description=_BOX)] = None,
        point: Annotated[list[str], Query(description=_POINT)] = [],  # noqa: B006 - copied by FastAPI
        outside: Annotated[list[str], Query(description=_OUTSIDE)] = [],  # noqa: B006 - likewise
        frame: Annotated[int | None, Query(ge=0, description=_FRAME)] = None,
        segment: Annotated[str | None, Query(description=_SEGMENT)] = None,
    ) -> Analysed:
        """One XA file: the frame that shows most, the tree, vessels and their measurements."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / UPLOAD
            with path.open("wb") as stream:
                async for piece in _pieces(request, rules.max_body_bytes):
                    stream.write(piece)
            pointer = _pointer(bundle, box, point, outside, segment)
            return await run_in_threadpool(measured, path, pointer, frame)

    return app
