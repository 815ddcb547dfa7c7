"""Work the server does after it has answered 202, polled at /api/requests."""

import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from demo.standin.accounts import basic_user
from demo.standin.replies import RefusalError, base_url, empty, page, reply, select
from demo.standin.store import Record, Store, now


class Background:
    """A queue of two threads whose jobs are remembered in the store.

    CVAT's own workers are processes that read, sort and describe every file; `work_s` is the time
    they are taken to need for a job, beside what this server itself does.
    """

    def __init__(self, store: Store, work_s: float = 0.0) -> None:
        self._store, self._work_s = store, work_s
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="standin-background")
        store.run(
            "UPDATE requests SET status = 'failed', message = 'The server was restarted',"
            " finished = ? WHERE status IN ('queued', 'started')",
            now(),
        )

    def submit(
        self, rq_id: str, operation: Record, owner_id: int, work: Callable[[], Path | None]
    ) -> None:
        """Queue work under a request id; what it returns, if anything, is the file to download."""
        self._store.run(
            "INSERT OR REPLACE INTO requests (id, status, operation, owner_id, created)"
            " VALUES (?, 'queued', ?, ?, ?)",
            rq_id,
            json.dumps(operation),
            owner_id,
            now(),
        )
        self._pool.submit(self._work, rq_id, work)

    def _work(self, rq_id: str, work: Callable[[], Path | None]) -> None:
        self._store.run(
            "UPDATE requests SET status = 'started', started = ? WHERE id = ?", now(), rq_id
        )
        status, message, result = "finished", "", None
        time.sleep(self._work_s)
        try:
            result = work()
        except (RefusalError, OSError, ValueError, KeyError, sqlite3.Error) as error:
            status, message = "failed", f"{type(error).__name__}: {error}"
        self._store.run(
            "UPDATE requests SET status = ?, message = ?, finished = ?, result_file = ?"
            " WHERE id = ?",
            status,
            message,
            now(),
            None if result is None else str(result),
            rq_id,
        )

    def close(self) -> None:
        """Let running work end; drop what is queued."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def routes(store: Store) -> APIRouter:
    """Polling of requests and download of their results."""
    router = APIRouter()

    def fill(request: Request, row: Record) -> Record:
        download = f"{base_url(request)}/api/requests/{row['id']}/result"
        return {
            "id": row["id"],
            "status": row["status"],
            "message": row["message"],
            "operation": json.loads(row["operation"]),
            "progress": 1.0 if row["status"] == "finished" else None,
            "created_date": row["created"],
            "started_date": row["started"],
            "finished_date": row["finished"],
            "expiry_date": None,
            "owner": basic_user(store, row["owner_id"]),
            "result_url": download if row["result_file"] else None,
            "result_id": row["result_id"],
        }

    def find(rq_id: str) -> Record:
        row = store.row("SELECT * FROM requests WHERE id = ?", rq_id)
        if row is None:
            raise RefusalError(404, "Not found.")
        return row

    @router.get("/api/requests")
    def list_requests(request: Request) -> Response:
        rows = select(request, store.rows("SELECT * FROM requests"), {"status": "status"})
        return page(request, rows, lambda row: fill(request, row))

    @router.get("/api/requests/{rq_id}")
    def one_request(rq_id: str, request: Request) -> Response:
        return reply(fill(request, find(rq_id)))

    @router.post("/api/requests/{rq_id}/cancel")
    def cancel(rq_id: str) -> Response:
        find(rq_id)
        return empty(200)

    @router.get("/api/requests/{rq_id}/result")
    def result(rq_id: str) -> Response:
        row = find(rq_id)
        if not row["result_file"]:
            raise RefusalError(404, "Not found.")
        path = Path(row["result_file"])
        return FileResponse(path, filename=path.name)

    return router
