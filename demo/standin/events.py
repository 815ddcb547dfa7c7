"""Time spent: client events in, a CSV of them out, as CVAT's analytics would export it.

The stand-in has no analytics of its own: it returns the events its clients sent, with the source
they named, so that a simulated duration stays marked as such.
"""

import csv
import secrets
from pathlib import Path

from fastapi import APIRouter, Request, Response

from demo.standin.background import Background
from demo.standin.replies import json_body, reply
from demo.standin.store import Store

COLUMNS = [
    "scope",
    "obj_name",
    "obj_id",
    "obj_val",
    "source",
    "timestamp",
    "count",
    "duration",
    "project_id",
    "task_id",
    "job_id",
    "user_id",
    "user_name",
    "user_email",
    "org_id",
    "org_slug",
    "payload",
]
_STORED = frozenset(
    [
        "scope",
        "source",
        "timestamp",
        "count",
        "duration",
        "project_id",
        "task_id",
        "job_id",
        "user_id",
        "user_name",
        "payload",
    ]
)
_FILTERS = ("project_id", "task_id", "job_id", "user_id")


def routes(store: Store, background: Background) -> APIRouter:
    """Recording and exporting events."""
    router = APIRouter()

    @router.post("/api/events")
    async def record_events(request: Request) -> Response:
        body, user = await json_body(request), request.state.user
        for event in body.get("events") or []:
            job = store.row(
                "SELECT task_id, project_id FROM jobs JOIN tasks ON tasks.id = task_id"
                " WHERE jobs.id = ?",
                event.get("job_id"),
            )
            place = job or {"task_id": event.get("task_id"), "project_id": event.get("project_id")}
            store.run(
                "INSERT INTO events (scope, timestamp, source, duration, count, project_id,"
                " task_id, job_id, user_id, user_name, payload)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                str(event["scope"]),
                str(event["timestamp"]),
                str(event.get("source") or "client"),
                event.get("duration"),
                event.get("count"),
                place["project_id"],
                place["task_id"],
                event.get("job_id"),
                user["id"],
                user["username"],
                str(event.get("payload") or ""),
            )
        return reply(body, 201)

    @router.post("/api/events/export")
    def export_events(request: Request) -> Response:
        rq_id = f"action=export&target=events&id={secrets.token_hex(8)}"
        wanted = [(f, request.query_params[f]) for f in _FILTERS if f in request.query_params]

        def write() -> Path:
            where = " AND ".join(f"{field} = ?" for field, _ in wanted) or "1"
            rows = store.rows(
                f"SELECT * FROM events WHERE {where} ORDER BY id",  # noqa: S608
                *(value for _, value in wanted),
            )
            folder = store.data_dir / "exports"
            folder.mkdir(exist_ok=True)
            path = folder / f"events-{rq_id.rpartition('=')[2]}.csv"
            with path.open("w", newline="") as out:
                table = csv.DictWriter(out, COLUMNS)
                table.writeheader()
                for row in rows:
                    table.writerow({key: row[key] for key in COLUMNS if key in _STORED})
            return path

        operation = {"type": "export:events", "target": "events"}
        background.submit(rq_id, operation, request.state.user["id"], write)
        return reply({"rq_id": rq_id}, 202)

    return router
