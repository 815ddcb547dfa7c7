"""Issues annotators raise on a frame, and the comments under them."""

import json

from fastapi import APIRouter, Request, Response

from demo.standin.accounts import basic_user
from demo.standin.jobs import find_job
from demo.standin.replies import RefusalError, base_url, empty, json_body, page, reply, select
from demo.standin.store import Record, Store, now

_ISSUE_FILTERS = {"job_id": "job_id", "task_id": "task_id", "resolved": "resolved"}
_COMMENT_FILTERS = {"issue_id": "issue_id", "job_id": "job_id"}
_ISSUES = "SELECT issues.*, task_id FROM issues JOIN jobs ON jobs.id = job_id"
_COMMENTS = "SELECT comments.*, job_id FROM comments JOIN issues ON issues.id = issue_id"


def routes(store: Store) -> APIRouter:
    """Creating, listing, reading, resolving and deleting issues and comments."""
    router = APIRouter()

    def fill_issue(request: Request, issue: Record) -> Record:
        count = store.count("SELECT count(*) FROM comments WHERE issue_id = ?", issue["id"])
        return {
            "id": issue["id"],
            "frame": issue["frame"],
            "position": json.loads(issue["position"]),
            "job": issue["job_id"],
            "owner": basic_user(store, issue["owner_id"]),
            "assignee": basic_user(store, issue["assignee_id"]),
            "created_date": issue["created"],
            "updated_date": issue["updated"],
            "resolved": bool(issue["resolved"]),
            "comments": {
                "count": count,
                "url": f"{base_url(request)}/api/comments?issue_id={issue['id']}",
            },
        }

    def fill_comment(comment: Record) -> Record:
        return {
            "id": comment["id"],
            "issue": comment["issue_id"],
            "owner": basic_user(store, comment["owner_id"]),
            "message": comment["message"],
            "created_date": comment["created"],
            "updated_date": comment["updated"],
        }

    def find(table: str, query: str, record_id: int) -> Record:
        row = store.row(f"{query} WHERE {table}.id = ?", record_id)
        if row is None:
            raise RefusalError(404, "Not found.")
        return row

    def add_comment(issue_id: int, owner_id: int, message: str) -> int:
        stamp = now()
        return store.run(
            "INSERT INTO comments (issue_id, owner_id, message, created, updated)"
            " VALUES (?, ?, ?, ?, ?)",
            issue_id,
            owner_id,
            message,
            stamp,
            stamp,
        )

    @router.post("/api/issues")
    async def create_issue(request: Request) -> Response:
        body, user_id, stamp = await json_body(request), request.state.user["id"], now()
        for field in ("frame", "position", "job", "message"):
            if field not in body:
                raise RefusalError(400, {field: ["This field is required."]})
        find_job(store, int(body["job"]))
        with store.transaction():
            issue_id = store.run(
                "INSERT INTO issues (job_id, frame, position, owner_id, created, updated)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                int(body["job"]),
                int(body["frame"]),
                json.dumps(body["position"]),
                user_id,
                stamp,
                stamp,
            )
            add_comment(issue_id, user_id, str(body["message"]))
        return reply(fill_issue(request, find("issues", _ISSUES, issue_id)), 201)

    @router.get("/api/issues")
    def list_issues(request: Request) -> Response:
        issues = select(request, store.rows(_ISSUES), _ISSUE_FILTERS)
        return page(request, issues, lambda issue: fill_issue(request, issue))

    @router.get("/api/issues/{issue_id}")
    def one_issue(issue_id: int, request: Request) -> Response:
        return reply(fill_issue(request, find("issues", _ISSUES, issue_id)))

    @router.patch("/api/issues/{issue_id}")
    async def change_issue(issue_id: int, request: Request) -> Response:
        issue, body = find("issues", _ISSUES, issue_id), await json_body(request)
        store.run(
            "UPDATE issues SET resolved = ?, assignee_id = ?, updated = ? WHERE id = ?",
            int(bool(body.get("resolved", issue["resolved"]))),
            body.get("assignee", issue["assignee_id"]),
            now(),
            issue_id,
        )
        return reply(fill_issue(request, find("issues", _ISSUES, issue_id)))

    @router.delete("/api/issues/{issue_id}")
    def remove_issue(issue_id: int) -> Response:
        find("issues", _ISSUES, issue_id)
        store.run("DELETE FROM issues WHERE id = ?", issue_id)
        return empty()

    @router.post("/api/comments")
    async def create_comment(request: Request) -> Response:
        body = await json_body(request)
        if "issue" not in body:
            raise RefusalError(400, {"issue": ["This field is required."]})
        find("issues", _ISSUES, int(body["issue"]))
        message = str(body.get("message", ""))
        comment_id = add_comment(int(body["issue"]), request.state.user["id"], message)
        return reply(fill_comment(find("comments", _COMMENTS, comment_id)), 201)

    @router.get("/api/comments")
    def list_comments(request: Request) -> Response:
        comments = select(request, store.rows(_COMMENTS), _COMMENT_FILTERS)
        return page(request, comments, fill_comment)

    @router.get("/api/comments/{comment_id}")
    def one_comment(comment_id: int) -> Response:
        return reply(fill_comment(find("comments", _COMMENTS, comment_id)))

    return router
