"""Data upload in both of CVAT's ways: multipart groups and resumable TUS chunks.

The habits kept: directories in file names are stripped, two files of one name in a task are a
server error, unknown fields are dropped silently, DICOM is "no media".
"""

import base64
import binascii
import mimetypes
import re
import shutil
import sqlite3
import uuid
from pathlib import Path

from fastapi import APIRouter, Request, Response
from PIL import Image, UnidentifiedImageError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from demo.standin import validation
from demo.standin.background import Background
from demo.standin.jobs import create_jobs, segments
from demo.standin.replies import RefusalError, base_url, empty, json_body, reply
from demo.standin.store import Record, Store, now
from demo.standin.tasks import find_task

_MAX_FILES = 100_000
_REFERENCE_CHUNK = 36
_REFERENCE_AREA = 1920 * 1080


def _natural(name: str) -> list[tuple[int, int | str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def order_files(names: list[str], fields: Record) -> list[str]:
    """Frame order of uploaded files under CVAT's sorting methods."""
    method = fields.get("sorting_method", "lexicographical")
    if method == "lexicographical":
        return sorted(names)
    if method in {"natural", "random"}:  # honeypots are shuffled later, with their own seed
        return sorted(names, key=_natural)
    if method == "predefined":
        wanted = [Path(name).name for name in fields.get("upload_file_order") or names]
        if sorted(wanted) != sorted(names):
            raise RefusalError(400, "The uploaded files do not match upload_file_order")
        return wanted
    raise RefusalError(400, {"sorting_method": [f'"{method}" is not a valid choice.']})


def _claim(store: Store, task_id: int, filename: str) -> str:
    """Register an uploaded file under its base name, as the SDK and server strip directories."""
    name = Path(filename.replace("\\", "/")).name
    try:
        store.run("INSERT INTO uploads VALUES (?, ?)", task_id, name)
    except sqlite3.IntegrityError:
        raise RefusalError(
            500,
            'IntegrityError: duplicate key value violates unique constraint "engine_clientfile'
            f'_data_id_file" DETAIL: Key (data_id, file)=({task_id}, {name}) already exists.',
        ) from None
    return name


def build_frames(store: Store, task: Record, fields: Record) -> None:
    """Turn a task's uploaded files into frames and jobs.

    Raises:
        RefusalError: when no file is an image, as CVAT says it of DICOM files.
    """
    folder, task_id = store.media_dir(task["id"]), task["id"]
    rows_uploaded = store.rows("SELECT filename FROM uploads WHERE task_id = ?", task_id)
    uploaded = [row["filename"] for row in rows_uploaded]
    images = [n for n in uploaded if (mimetypes.guess_type(n)[0] or "").startswith("image/")]
    if not images:
        raise RefusalError(400, "No media data found")
    ordered = order_files(images, fields)
    start = int(fields.get("start_frame") or 0)
    stop = int(fields["stop_frame"]) + 1 if fields.get("stop_frame") is not None else len(ordered)
    step = int(str(fields.get("frame_filter") or "step=1").partition("=")[2])
    ordered = ordered[start:stop:step]
    layout = _layout(ordered, task, fields)
    rows: list[tuple[int, int, str, int, int]] = []
    for frame, name in enumerate(layout.names):
        try:
            with Image.open(folder / name) as image:
                rows.append((task_id, frame, name, image.width, image.height))
        except UnidentifiedImageError:
            raise RefusalError(400, f"cannot identify image file {name!r}") from None
    chunk = max(2, min(72, _REFERENCE_CHUNK * _REFERENCE_AREA // (rows[0][3] * rows[0][4])))
    with store.transaction():
        store.run_many("INSERT INTO frames VALUES (?, ?, ?, ?, ?)", rows)
        store.run(
            "UPDATE tasks SET validation_mode = ?, size = ?, image_quality = ?, chunk_size = ?,"
            " updated = ? WHERE id = ?",
            (fields.get("validation_params") or {}).get("mode"),
            len(rows),
            int(fields["image_quality"]),
            int(fields.get("chunk_size") or chunk),
            now(),
            task_id,
        )
        create_jobs(store, task, layout)


def _layout(names: list[str], task: Record, fields: Record) -> validation.Layout:
    params = fields.get("validation_params") or {}
    if params.get("mode") == "gt_pool":
        return validation.honeypots(names, task["segment_size"], params)
    cuts = segments(len(names), task["segment_size"], task["overlap"])
    if params.get("mode") == "gt":
        return validation.ground_truth(names, cuts, params)
    return validation.Layout(tuple(names), tuple(cuts))


def _decode_metadata(header: str) -> dict[str, str]:
    """The key-value pairs of a TUS Upload-Metadata header (tus.io, creation extension)."""
    found: dict[str, str] = {}
    for pair in header.split(","):
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise RefusalError(400, "Upload-Metadata: not base64") from None
    return found


def routes(store: Store, background: Background) -> APIRouter:
    """The upload half of /api/tasks/{id}/data/."""
    router = APIRouter()
    mimetypes.init()  # reads the system's tables: now, and not while the first task waits

    def incoming(task_id: int) -> Path:
        folder = store.data_dir / "incoming" / str(task_id)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    async def keep_files(task_id: int, request: Request) -> Record:
        fields: Record = {}
        async with request.form(max_files=_MAX_FILES) as form:
            sent = []
            for key, part in form.multi_items():
                if not isinstance(part, UploadFile):
                    fields[key] = part
                elif key.startswith("client_files"):
                    sent.append(part)
            await run_in_threadpool(keep, task_id, sent)
        return fields

    def keep(task_id: int, sent: list[UploadFile]) -> None:
        folder = store.media_dir(task_id)
        with store.transaction():  # all of a request's files are taken, or none
            names = [_claim(store, task_id, part.filename or "") for part in sent]
        for name, part in zip(names, sent, strict=True):
            with (folder / name).open("wb") as out:
                shutil.copyfileobj(part.file, out)

    def begin_tus(task_id: int, request: Request) -> Response:
        filename = _decode_metadata(request.headers.get("upload-metadata", "")).get("filename", "")
        if not filename:
            raise RefusalError(400, "Upload-Metadata: filename is missing")
        name, file_id = Path(filename).name, uuid.uuid4().hex
        folder = incoming(task_id)
        (folder / f"{file_id}.part").touch()
        (folder / f"{file_id}.name").write_text(f"{request.headers['upload-length']}\n{name}")
        location = f"{base_url(request)}/api/tasks/{task_id}/data/{file_id}"
        headers = {"Location": location, "Upload-Filename": name, "Tus-Resumable": "1.0.0"}
        return empty(201, headers)

    def finish(task: Record, fields: Record, owner_id: int) -> Response:
        if "image_quality" not in fields:
            raise RefusalError(400, {"image_quality": ["This field is required."]})
        order_files([], {**fields, "upload_file_order": []})
        if fields.get("validation_params"):
            validation.check(fields["validation_params"], fields)
        rq_id = f"action=create&target=task&id={task['id']}"
        operation = {
            "type": "create:task",
            "target": "task",
            "project_id": task["project_id"],
            "task_id": task["id"],
            "job_id": None,
            "org_id": None,
        }
        background.submit(rq_id, operation, owner_id, lambda: build_frames(store, task, fields))
        return reply({"rq_id": rq_id}, 202)

    @router.post("/api/tasks/{task_id}/data/")
    @router.post("/api/tasks/{task_id}/data")
    async def upload(task_id: int, request: Request) -> Response:
        task, headers = find_task(store, task_id), request.headers
        if task["size"]:
            raise RefusalError(400, ["Adding more data is not supported"])
        if "upload-length" in headers:
            return begin_tus(task_id, request)
        if "upload-start" in headers:
            return empty(202)
        is_form = headers.get("content-type", "").startswith("multipart/")
        if "upload-multiple" in headers:
            await keep_files(task_id, request)
            return empty(200)
        fields = await (keep_files(task_id, request) if is_form else json_body(request))
        return finish(task, fields, request.state.user["id"])

    def part(task_id: int, file_id: str) -> tuple[Path, int, str]:
        folder = incoming(task_id)
        path, note = folder / f"{file_id}.part", folder / f"{file_id}.name"
        if not re.fullmatch(r"[0-9a-f]{32}", file_id) or not note.exists():
            raise RefusalError(404, "Not found.")
        length, _, name = note.read_text().partition("\n")
        return path, int(length), name

    @router.head("/api/tasks/{task_id}/data/{file_id}")
    def chunk_offset(task_id: int, file_id: str) -> Response:
        path, length, _ = part(task_id, file_id)
        offset = path.stat().st_size if path.exists() else length
        return empty(200, {"Upload-Offset": str(offset), "Upload-Length": str(length)})

    @router.patch("/api/tasks/{task_id}/data/{file_id}")
    async def chunk(task_id: int, file_id: str, request: Request) -> Response:
        path, length, name = part(task_id, file_id)
        offset = path.stat().st_size if path.exists() else length
        if int(request.headers.get("upload-offset", "-1")) != offset:
            return empty(409, {"Upload-Offset": str(offset)})
        with path.open("ab") as out:
            async for piece in request.stream():
                out.write(piece)
        offset = path.stat().st_size
        if offset > length:
            raise RefusalError(413, "The chunk is longer than Upload-Length")
        if offset == length:
            claimed = _claim(store, task_id, name)
            path.replace(store.media_dir(task_id) / claimed)
        return empty(204, {"Upload-Offset": str(offset), "Upload-Filename": name})

    return router
