"""The frames of a task: metadata, originals byte for byte, recompressed views, chunks, previews."""

import io
import json
import mimetypes
import zipfile

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse
from PIL import Image

from demo.standin.jobs import find_job
from demo.standin.replies import RefusalError, json_body, reply
from demo.standin.store import Record, Store
from demo.standin.tasks import find_task

_PREVIEW_PX = 256


def original(store: Store, task_id: int, frame: int) -> bytes:
    """The uploaded file of a frame, byte for byte, as serverless functions receive it.

    Raises:
        RefusalError: 400 when the task has no such frame.
    """
    row = store.row("SELECT name FROM frames WHERE task_id = ? AND frame = ?", task_id, frame)
    if row is None:
        raise RefusalError(400, f"Incorrect requested frame number: {frame}")
    path = store.media_dir(task_id) / str(row["name"])
    return path.read_bytes()


def _recompressed(data: bytes, quality: int) -> bytes:
    """What CVAT shows: a JPEG of the task's image quality, also for PNG files and at 100."""
    with Image.open(io.BytesIO(data)) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=max(1, quality))
    return buffer.getvalue()


def _preview(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
        small.thumbnail((_PREVIEW_PX, _PREVIEW_PX))
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
    return buffer.getvalue()


def _meta(store: Store, task: Record, first: int, last: int) -> Record:
    frames = store.rows(
        "SELECT name, width, height FROM frames WHERE task_id = ? AND frame BETWEEN ? AND ?"
        " ORDER BY frame",
        task["id"],
        first,
        last,
    )
    return {
        "chunks_updated_date": task["updated"],
        "chunk_size": task["chunk_size"],
        "size": len(frames),
        "image_quality": task["image_quality"] or 0,
        "start_frame": first,
        "stop_frame": last,
        "frame_filter": "",
        "frames": [{**frame, "related_files": 0, "has_related_context": False} for frame in frames],
        "deleted_frames": [f for f in json.loads(task["deleted_frames"]) if first <= f <= last],
        "included_frames": None,
        "storage": "local",
        "storage_method": "cache",
        "cloud_storage_id": None,
    }


def routes(store: Store) -> APIRouter:
    """The download half of /data, and /data/meta, of tasks and jobs."""
    router = APIRouter()

    def media(request: Request, task: Record, first: int, last: int) -> Response:
        query = request.query_params
        kind, compressed = query.get("type", ""), query.get("quality", "compressed") != "original"
        if kind not in {"frame", "chunk"}:
            raise RefusalError(400, "Data type not specified or not supported")
        try:
            number = int(query.get("number", query.get("index", "")))
        except ValueError:
            raise RefusalError(400, "Number is not specified or not a number") from None
        quality = int(task["image_quality"] or 0)
        if kind == "frame":
            if not first <= number <= last:
                raise RefusalError(400, f"Incorrect requested frame number: {number}")
            data = original(store, task["id"], number)
            if compressed:
                return Response(_recompressed(data, quality), media_type="image/jpeg")
            name = store.rows(
                "SELECT name FROM frames WHERE task_id = ? AND frame = ?", task["id"], number
            )[0]["name"]
            path = store.media_dir(task["id"]) / name
            return FileResponse(path, media_type=mimetypes.guess_type(name)[0])
        begin = first + number * int(task["chunk_size"])
        if number < 0 or begin > last:
            raise RefusalError(400, f"Incorrect requested chunk number: {number}")
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for i, frame in enumerate(range(begin, min(begin + task["chunk_size"], last + 1))):
                data = original(store, task["id"], frame)
                if compressed:
                    data = _recompressed(data, quality)
                archive.writestr(f"{i:06d}.{'jpeg' if compressed else 'png'}", data)
        return Response(buffer.getvalue(), media_type="application/zip")

    @router.get("/api/tasks/{task_id}/data/")
    @router.get("/api/tasks/{task_id}/data")
    def task_data(task_id: int, request: Request) -> Response:
        task = find_task(store, task_id)
        return media(request, task, 0, task["size"] - 1)

    @router.get("/api/jobs/{job_id}/data/")
    @router.get("/api/jobs/{job_id}/data")
    def job_data(job_id: int, request: Request) -> Response:
        job = find_job(store, job_id)
        task = find_task(store, job["task_id"])
        return media(request, task, job["start_frame"], job["stop_frame"])

    @router.get("/api/tasks/{task_id}/preview")
    def task_preview(task_id: int) -> Response:
        find_task(store, task_id)
        return Response(_preview(original(store, task_id, 0)), media_type="image/png")

    @router.get("/api/tasks/{task_id}/data/meta")
    def task_meta(task_id: int) -> Response:
        task = find_task(store, task_id)
        return reply(_meta(store, task, 0, max(0, task["size"] - 1)))

    @router.get("/api/jobs/{job_id}/data/meta")
    def job_meta(job_id: int) -> Response:
        job = find_job(store, job_id)
        task = find_task(store, job["task_id"])
        meta = _meta(store, task, job["start_frame"], job["stop_frame"])
        included = None if job["included"] is None else json.loads(job["included"])
        return reply({**meta, "included_frames": included})

    async def delete_frames(task: Record, request: Request) -> None:
        deleted = (await json_body(request)).get("deleted_frames")
        if deleted is not None:
            store.run(
                "UPDATE tasks SET deleted_frames = ? WHERE id = ?", json.dumps(deleted), task["id"]
            )

    @router.patch("/api/tasks/{task_id}/data/meta")
    async def change_task_meta(task_id: int, request: Request) -> Response:
        await delete_frames(find_task(store, task_id), request)
        task = find_task(store, task_id)
        return reply(_meta(store, task, 0, max(0, task["size"] - 1)))

    return router
