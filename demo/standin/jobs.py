"""Jobs: a range of a task's frames that one annotator works on."""

import json

from fastapi import APIRouter, Request, Response

from demo.standin.accounts import basic_user
from demo.standin.replies import RefusalError, base_url, json_body, page, reply, select
from demo.standin.store import Record, Store, now
from demo.standin.validation import Layout

_STAGES = ("annotation", "validation", "acceptance")
_STATES = ("new", "in progress", "rejected", "completed")
_FILTERS = {
    "task_id": "task_id",
    "project_id": "project_id",
    "task_name": "task_name",
    "stage": "stage",
    "state": "state",
    "assignee": "assignee",
    "type": "type",
}
_QUERY = (
    "SELECT jobs.*, tasks.name AS task_name, tasks.project_id, tasks.bug_tracker,"
    " tasks.chunk_size, tasks.name AS name, projects.name AS project_name,"
    " users.username AS assignee FROM jobs JOIN tasks ON tasks.id = jobs.task_id"
    " LEFT JOIN projects ON projects.id = tasks.project_id"
    " LEFT JOIN users ON users.id = jobs.assignee_id"
)


def find_job(store: Store, job_id: int) -> Record:
    """A job's row.

    Raises:
        RefusalError: 404 when there is none.
    """
    job = store.row(f"{_QUERY} WHERE jobs.id = ?", job_id)
    if job is None:
        raise RefusalError(404, "Not found.")
    return job


def segments(size: int, segment_size: int, overlap: int) -> list[tuple[int, int]]:
    """First and last frame of each job of a task; segment size 0 means one job."""
    if segment_size <= 0 or segment_size >= size:
        return [(0, size - 1)]
    step = max(1, segment_size - max(0, overlap))
    cuts = range(0, max(1, size - max(0, overlap)), step)
    return [(start, min(start + segment_size, size) - 1) for start in cuts]


def create_jobs(store: Store, task: Record, layout: Layout) -> None:
    """Cut a task that has just received its frames into jobs, replicas and a ground truth job."""
    stamp = now()
    insert = (
        "INSERT INTO jobs (task_id, start_frame, stop_frame, created, updated, type,"
        " parent_job_id, included) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    )
    for start, stop in layout.cuts:
        place = (task["id"], start, stop, stamp, stamp)
        parent = store.run(insert, *place, "annotation", None, None)
        for _ in range(task["replicas"]):
            store.run(insert, *place, "consensus_replica", parent, None)
    if layout.truth:
        place = (task["id"], min(layout.truth), max(layout.truth), stamp, stamp)
        store.run(insert, *place, "ground_truth", None, json.dumps(layout.truth))


def touch_jobs(store: Store, job_ids: set[int]) -> None:
    """A save of annotations moves the updated dates of its jobs and their task."""
    stamp = now()
    before = {job: find_job(store, job)["updated"] for job in job_ids}
    store.run_many("UPDATE jobs SET updated = ? WHERE id = ?", [(stamp, job) for job in job_ids])
    store.run_many(
        "UPDATE tasks SET updated = ? WHERE id = (SELECT task_id FROM jobs WHERE jobs.id = ?)",
        [(stamp, job) for job in job_ids],
    )
    for job, updated in before.items():
        store.job_saved(job, {"updated_date": updated})


def job_document(store: Store, url: str, job_id: int) -> Record:
    """A job as the API shows it to who knows the server under an address."""
    return _fill(store, url, find_job(store, job_id))


def _status(job: Record) -> str:
    if job["stage"] == "acceptance" and job["state"] == "completed":
        return "completed"
    return "annotation" if job["stage"] == "annotation" else "validation"


def _fill(store: Store, url: str, job: Record) -> Record:
    job_id = job["id"]
    issues = store.count("SELECT count(*) FROM issues WHERE job_id = ?", job_id)
    return {
        "url": f"{url}/api/jobs/{job_id}",
        "id": job_id,
        "task_id": job["task_id"],
        "task_name": job["task_name"],
        "project_id": job["project_id"],
        "project_name": job["project_name"],
        "assignee": basic_user(store, job["assignee_id"]),
        "assignee_updated_date": None,
        "guide_id": None,
        "dimension": "2d",
        "media_type": "image",
        "mode": "annotation",
        "bug_tracker": job["bug_tracker"],
        "status": _status(job),
        "stage": job["stage"],
        "state": job["state"],
        "type": job["type"],
        "frame_count": job["stop_frame"] - job["start_frame"] + 1,
        "start_frame": job["start_frame"],
        "stop_frame": job["stop_frame"],
        "data_chunk_size": job["chunk_size"],
        "data_compressed_chunk_type": "imageset",
        "data_original_chunk_type": "imageset",
        "created_date": job["created"],
        "updated_date": job["updated"],
        "organization": None,
        "source_storage": None,
        "target_storage": None,
        "parent_job_id": job["parent_job_id"],
        "replicas_count": store.count("SELECT count(*) FROM jobs WHERE parent_job_id = ?", job_id),
        "issues": {"count": issues, "url": f"{url}/api/issues?job_id={job_id}"},
        "labels": {"url": f"{url}/api/labels?job_id={job_id}"},
    }


def routes(store: Store) -> APIRouter:
    """Listing, reading and changing jobs; ids come in descending order, as CVAT sorts them."""
    router = APIRouter()

    @router.get("/api/jobs")
    def list_jobs(request: Request) -> Response:
        jobs = select(request, store.rows(_QUERY), _FILTERS)
        return page(request, jobs, lambda job: _fill(store, base_url(request), job))

    @router.get("/api/jobs/{job_id}")
    def one_job(job_id: int, request: Request) -> Response:
        return reply(job_document(store, base_url(request), job_id))

    @router.patch("/api/jobs/{job_id}")
    async def change_job(job_id: int, request: Request) -> Response:
        job, body = find_job(store, job_id), await json_body(request)
        stage, state = body.get("stage", job["stage"]), body.get("state", job["state"])
        if stage not in _STAGES:
            raise RefusalError(400, {"stage": [f'"{stage}" is not a valid choice.']})
        if state not in _STATES:
            raise RefusalError(400, {"state": [f'"{state}" is not a valid choice.']})
        assignee = body.get("assignee", job["assignee_id"])
        if assignee is not None and basic_user(store, assignee) is None:
            message = f'Invalid pk "{assignee}" - object does not exist.'
            raise RefusalError(400, {"assignee": [message]})
        if stage != job["stage"] and "state" not in body:
            state = "new"
        store.run(
            "UPDATE jobs SET stage = ?, state = ?, assignee_id = ?, updated = ? WHERE id = ?",
            stage,
            state,
            assignee,
            now(),
            job_id,
        )
        after = job_document(store, base_url(request), job_id)
        was = _fill(store, base_url(request), job)
        store.job_saved(job_id, {name: was[name] for name in was if was[name] != after[name]})
        return reply(after)

    return router
