"""Tasks: created empty, filled by an upload, cut into jobs."""

import shutil

from fastapi import APIRouter, Request, Response

from demo.standin.accounts import basic_user
from demo.standin.labels import write_labels
from demo.standin.replies import RefusalError, base_url, empty, json_body, page, reply, select
from demo.standin.store import Record, Store, now

_FILTERS = {
    "name": "name",
    "project_id": "project_id",
    "project_name": "project_name",
    "tracker_link": "bug_tracker",
    "subset": "subset",
}
_QUERY = (
    "SELECT tasks.*, projects.name AS project_name FROM tasks"
    " LEFT JOIN projects ON projects.id = tasks.project_id"
)


def find_task(store: Store, task_id: int) -> Record:
    """A task's row.

    Raises:
        RefusalError: 404 when there is none.
    """
    task = store.row(f"{_QUERY} WHERE tasks.id = ?", task_id)
    if task is None:
        raise RefusalError(404, "Not found.")
    return task


def task_status(jobs: list[Record]) -> str:
    """CVAT's one word for the state of all jobs of a task."""
    if jobs and all(j["stage"] == "acceptance" and j["state"] == "completed" for j in jobs):
        return "completed"
    if jobs and all(j["stage"] != "annotation" for j in jobs):
        return "validation"
    return "annotation"


def _fill(store: Store, request: Request, task: Record) -> Record:
    url, task_id = base_url(request), task["id"]
    jobs = store.rows("SELECT stage, state FROM jobs WHERE task_id = ?", task_id)
    has_data = task["size"] > 0
    return {
        "url": f"{url}/api/tasks/{task_id}",
        "id": task_id,
        "name": task["name"],
        "project_id": task["project_id"],
        "project_name": task["project_name"],
        "mode": "annotation" if has_data else "",
        "media_type": "image",
        "owner": basic_user(store, task["owner_id"]),
        "assignee": basic_user(store, task["assignee_id"]),
        "assignee_updated_date": None,
        "bug_tracker": task["bug_tracker"],
        "created_date": task["created"],
        "updated_date": task["updated"],
        "overlap": task["overlap"] if has_data else None,
        "segment_size": task["segment_size"],
        "status": task_status(jobs),
        "data_chunk_size": task["chunk_size"],
        "data_compressed_chunk_type": "imageset" if has_data else None,
        "data_original_chunk_type": "imageset" if has_data else None,
        "data_cloud_storage_id": None,
        "guide_id": None,
        "size": task["size"],
        "image_quality": task["image_quality"] or 0,
        "data": task_id if has_data else None,
        "dimension": "2d",
        "subset": task["subset"],
        "organization": None,
        "organization_id": None,
        "source_storage": None,
        "target_storage": None,
        "validation_mode": task["validation_mode"],
        "consensus_enabled": task["replicas"] > 0,
        "jobs": {
            "count": len(jobs),
            "completed": sum(job["state"] == "completed" for job in jobs),
            "validation": sum(job["stage"] == "validation" for job in jobs),
            "url": f"{url}/api/jobs?task_id={task_id}",
        },
        "labels": {"url": f"{url}/api/labels?task_id={task_id}"},
    }


def routes(store: Store) -> APIRouter:
    """Creating, listing, reading, changing and deleting tasks."""
    router = APIRouter()

    @router.post("/api/tasks")
    async def create_task(request: Request) -> Response:
        body = await json_body(request)
        if not body.get("name"):
            raise RefusalError(400, {"name": ["This field is required."]})
        project_id, labels = body.get("project_id"), body.get("labels") or []
        if project_id is None and not labels:
            raise RefusalError(400, ["Label set or project_id must be present"])
        if project_id is not None and labels:
            raise RefusalError(400, ["Project must have only one of Label set or project_id"])
        known = "SELECT id FROM projects WHERE id = ?"
        if project_id is not None and store.row(known, project_id) is None:
            raise RefusalError(400, [f"The specified project #{project_id} does not exist."])
        replicas = int(body.get("consensus_replicas") or 0)
        if replicas == 1 or replicas < 0:
            raise RefusalError(400, {"consensus_replicas": ["Must be 0 or greater than 1"]})
        stamp = now()
        with store.transaction():
            task_id = store.run(
                "INSERT INTO tasks (project_id, name, bug_tracker, subset, owner_id, assignee_id,"
                " segment_size, overlap, created, updated, replicas)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                project_id,
                str(body["name"]),
                str(body.get("bug_tracker") or ""),
                str(body.get("subset") or ""),
                request.state.user["id"],
                body.get("assignee_id"),
                int(body.get("segment_size") or 0),
                int(body.get("overlap") or 0),
                stamp,
                stamp,
                replicas,
            )
            write_labels(store, "task_id", task_id, labels)
        return reply(_fill(store, request, find_task(store, task_id)), 201)

    @router.get("/api/tasks")
    def list_tasks(request: Request) -> Response:
        tasks = select(request, store.rows(_QUERY), _FILTERS)
        return page(request, tasks, lambda task: _fill(store, request, task))

    @router.get("/api/tasks/{task_id}")
    def one_task(task_id: int, request: Request) -> Response:
        return reply(_fill(store, request, find_task(store, task_id)))

    @router.patch("/api/tasks/{task_id}")
    async def change_task(task_id: int, request: Request) -> Response:
        task, body = find_task(store, task_id), await json_body(request)
        with store.transaction():
            write_labels(store, "task_id", task_id, body.get("labels") or [])
            store.run(
                "UPDATE tasks SET name = ?, bug_tracker = ?, subset = ?, assignee_id = ?,"
                " updated = ? WHERE id = ?",
                body.get("name", task["name"]),
                body.get("bug_tracker", task["bug_tracker"]),
                body.get("subset", task["subset"]),
                body.get("assignee_id", task["assignee_id"]),
                now(),
                task_id,
            )
        return reply(_fill(store, request, find_task(store, task_id)))

    @router.delete("/api/tasks/{task_id}")
    def remove_task(task_id: int) -> Response:
        find_task(store, task_id)
        store.run("DELETE FROM tasks WHERE id = ?", task_id)
        shutil.rmtree(store.media_dir(task_id))
        return empty()

    return router
