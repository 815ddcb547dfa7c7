"""Projects: a name that need not be unique, labels, and the tasks inside."""

from fastapi import APIRouter, Request, Response

from demo.standin.accounts import basic_user
from demo.standin.labels import write_labels
from demo.standin.replies import RefusalError, base_url, empty, json_body, page, reply, select
from demo.standin.store import Record, Store, now


def routes(store: Store) -> APIRouter:
    """Creating, listing, reading, changing and deleting projects."""
    router = APIRouter()

    def find(project_id: int) -> Record:
        project = store.row("SELECT * FROM projects WHERE id = ?", project_id)
        if project is None:
            raise RefusalError(404, "Not found.")
        return project

    def fill(request: Request, project: Record) -> Record:
        url, project_id = base_url(request), project["id"]
        tasks = store.rows("SELECT subset FROM tasks WHERE project_id = ?", project_id)
        return {
            "url": f"{url}/api/projects/{project_id}",
            "id": project_id,
            "name": project["name"],
            "owner": basic_user(store, project["owner_id"]),
            "assignee": basic_user(store, project["assignee_id"]),
            "assignee_updated_date": None,
            "guide_id": None,
            "bug_tracker": project["bug_tracker"],
            "task_subsets": sorted({task["subset"] for task in tasks if task["subset"]}),
            "created_date": project["created"],
            "updated_date": project["updated"],
            "status": "annotation",
            "dimension": "2d" if tasks else None,
            "organization": None,
            "organization_id": None,
            "source_storage": None,
            "target_storage": None,
            "tasks": {"count": len(tasks), "url": f"{url}/api/tasks?project_id={project_id}"},
            "labels": {"url": f"{url}/api/labels?project_id={project_id}"},
        }

    @router.post("/api/projects")
    async def create_project(request: Request) -> Response:
        body = await json_body(request)
        if not body.get("name"):
            raise RefusalError(400, {"name": ["This field is required."]})
        stamp = now()
        with store.transaction():
            project_id = store.run(
                "INSERT INTO projects (name, bug_tracker, owner_id, assignee_id, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                str(body["name"]),
                str(body.get("bug_tracker") or ""),
                request.state.user["id"],
                body.get("assignee_id"),
                stamp,
                stamp,
            )
            write_labels(store, "project_id", project_id, body.get("labels") or [])
        return reply(fill(request, find(project_id)), 201)

    @router.get("/api/projects")
    def list_projects(request: Request) -> Response:
        projects = select(
            request, store.rows("SELECT * FROM projects"), {"name": "name", "id": "id"}
        )
        return page(request, projects, lambda project: fill(request, project))

    @router.get("/api/projects/{project_id}")
    def one_project(project_id: int, request: Request) -> Response:
        return reply(fill(request, find(project_id)))

    @router.patch("/api/projects/{project_id}")
    async def change_project(project_id: int, request: Request) -> Response:
        project, body = find(project_id), await json_body(request)
        with store.transaction():
            write_labels(store, "project_id", project_id, body.get("labels") or [])
            store.run(
                "UPDATE projects SET name = ?, bug_tracker = ?, assignee_id = ?, updated = ?"
                " WHERE id = ?",
                body.get("name", project["name"]),
                body.get("bug_tracker", project["bug_tracker"]),
                body.get("assignee_id", project["assignee_id"]),
                now(),
                project_id,
            )
        return reply(fill(request, find(project_id)))

    @router.delete("/api/projects/{project_id}")
    def remove_project(project_id: int) -> Response:
        find(project_id)
        store.run("DELETE FROM projects WHERE id = ?", project_id)
        return empty()

    return router
