"""Annotations of tasks and jobs: tags, shapes and tracks, with CVAT's habits.

Run lengths, boxes and (in a job) frames are not checked; a task write drops frames it does not
have and answers 200; PUT replaces everything under new ids; reading is not in frame order.
"""

from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from demo.standin.jobs import find_job, touch_jobs
from demo.standin.labels import attributes_of, labels_of_task
from demo.standin.replies import RefusalError, empty, json_body, reply
from demo.standin.store import Record, Store
from demo.standin.tasks import find_task

KINDS = ("tags", "shapes", "tracks")
_REQUIRED = {
    "tags": ("label_id", "frame"),
    "shapes": ("type", "label_id", "frame"),
    "tracks": ("label_id", "frame", "shapes"),
}
_SHAPE_TYPES = frozenset(
    ["rectangle", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton"]
)
Attributes = dict[int, dict[int, Record]]
"""Attributes by label id and attribute id."""


def _attributes(store: Store, task: Record) -> Attributes:
    return {
        label["id"]: {a["id"]: a for a in attributes_of(store, label["id"])}
        for label in labels_of_task(store, task)
    }


def _check(kind: str, item: Record, known: Attributes) -> None:
    for field in _REQUIRED[kind]:
        if field not in item:
            raise RefusalError(400, {kind: [{field: ["This field is required."]}]})
    if kind == "shapes" and item["type"] not in _SHAPE_TYPES:
        raise RefusalError(400, {kind: [{"type": [f'"{item["type"]}" is not a valid choice.']}]})
    if item["label_id"] not in known:
        raise RefusalError(400, f"label_id `{item['label_id']}` is invalid")
    for attribute in item.get("attributes") or []:
        spec = known[item["label_id"]].get(attribute["spec_id"])
        if spec is None:
            raise RefusalError(400, f"spec_id `{attribute['spec_id']}` is invalid")
        if spec["input_type"] == "number":
            try:
                int(str(attribute["value"]))
            except ValueError:
                raise RefusalError(
                    500,
                    f"ValueError: invalid literal for int() with base 10: {attribute['value']!r}",
                ) from None


def _complete(kind: str, item: Record, known: Attributes) -> str:
    """The stored JSON of one annotation, without its id: defaults filled in as CVAT does."""
    given = {a["spec_id"]: str(a["value"]) for a in item.get("attributes") or []}
    specs = known[item["label_id"]]
    attributes = [
        {"spec_id": spec_id, "value": given.get(spec_id, spec["default_value"])}
        for spec_id, spec in specs.items()
    ]
    body: Record = {
        "label_id": item["label_id"],
        "frame": int(item["frame"]),
        "group": item.get("group") or 0,
        "source": item.get("source") or "manual",
        "attributes": attributes,
    }
    if kind == "shapes":
        body |= {
            "type": item["type"],
            "occluded": bool(item.get("occluded")),
            "outside": bool(item.get("outside")),
            "z_order": item.get("z_order") or 0,
            "rotation": float(item.get("rotation") or 0.0),
            "points": [float(number) for number in item.get("points") or []],
            "score": float(item.get("score", 1.0)),
            "elements": [],
        }
    if kind == "tracks":
        body |= {"shapes": item["shapes"], "elements": []}
    return to_json(body).decode()


def _with_id(number: int, text: str) -> str:
    return f'{{"id":{number},{text[1:]}'


def _document(items: dict[str, list[str]]) -> str:
    lists = (f'"{kind}":[{",".join(items[kind])}]' for kind in KINDS)
    return '{"version":0,' + ",".join(lists) + "}"


class Scope:
    """The annotations of one task or one job, and how frames find their job."""

    def __init__(self, store: Store, task: Record, jobs: list[Record], *, drops: bool) -> None:
        self.store, self.jobs, self.drops = store, jobs, drops
        self.known = _attributes(store, task)
        self.job_ids = tuple(int(job["id"]) for job in jobs)
        self._where = f"job_id IN ({','.join('?' * len(jobs))})"

    def read(self) -> str:
        """All annotations as JSON, newest first: not in frame order."""
        found: dict[str, list[str]] = {}
        for kind in KINDS:
            rows = self.store.rows(
                f"SELECT id, body FROM {kind} WHERE {self._where} ORDER BY id DESC",  # noqa: S608
                *self.job_ids,
            )
            found[kind] = [_with_id(row["id"], row["body"]) for row in rows]
        return _document(found)

    def _job_of(self, frame: int) -> int | None:
        for job in self.jobs:
            if job["start_frame"] <= frame <= job["stop_frame"]:
                return int(job["id"])
        return None if self.drops or not self.jobs else self.job_ids[0]

    def create(self, body: Record) -> str:
        """Store annotations under new ids, as JSON; those outside a task's frames are dropped."""
        made: dict[str, list[str]] = {kind: [] for kind in KINDS}
        touched = set()
        for kind in KINDS:
            for item in body.get(kind) or []:
                _check(kind, item, self.known)
        for kind in KINDS:
            for item in body.get(kind) or []:
                job_id = self._job_of(int(item["frame"]))
                if job_id is None:
                    continue
                text = _complete(kind, item, self.known)
                new_id = self.store.run(
                    f"INSERT INTO {kind} (job_id, label_id, frame, body) VALUES (?, ?, ?, ?)",  # noqa: S608
                    job_id,
                    item["label_id"],
                    int(item["frame"]),
                    text,
                )
                made[kind].append(_with_id(new_id, text))
                touched.add(job_id)
        touch_jobs(self.store, touched)
        return _document(made)

    def clear(self) -> None:
        """Delete everything in the scope."""
        for kind in KINDS:
            self.store.run(f"DELETE FROM {kind} WHERE {self._where}", *self.job_ids)  # noqa: S608
        touch_jobs(self.store, set(self.job_ids))

    def replace(self, body: Record) -> str:
        """Delete everything, then create: ids are new even for what did not change."""
        self.clear()
        return self.create(body)

    def delete(self, body: Record) -> Record:
        """Delete the annotations listed by id."""
        for kind in KINDS:
            for item in body.get(kind) or []:
                self.store.run(
                    f"DELETE FROM {kind} WHERE id = ? AND {self._where}",  # noqa: S608
                    item.get("id"),
                    *self.job_ids,
                )
        touch_jobs(self.store, set(self.job_ids))
        return body

    def update(self, body: Record) -> Record:
        """Change the annotations listed, keeping their ids."""
        for kind in KINDS:
            for item in body.get(kind) or []:
                _check(kind, item, self.known)
                known = self.store.row(
                    f"SELECT id FROM {kind} WHERE id = ? AND {self._where}",  # noqa: S608
                    item.get("id"),
                    *self.job_ids,
                )
                if known is None:
                    raise RefusalError(404, f"Not found: {kind} {item.get('id')}")
                self.store.run(
                    f"UPDATE {kind} SET label_id = ?, frame = ?, body = ? WHERE id = ?",  # noqa: S608
                    item["label_id"],
                    int(item["frame"]),
                    _complete(kind, item, self.known),
                    item["id"],
                )
        touch_jobs(self.store, set(self.job_ids))
        return body


def task_scope(store: Store, task_id: int) -> Scope:
    """The annotations of the ordinary jobs of a task, and of the ground truth behind honeypots."""
    task = find_task(store, task_id)
    kinds = ("annotation", "ground_truth" if task["validation_mode"] == "gt_pool" else "annotation")
    jobs = store.rows(
        "SELECT * FROM jobs WHERE task_id = ? AND type IN (?, ?) ORDER BY id", task_id, *kinds
    )
    return Scope(store, task, jobs, drops=True)


def job_scope(store: Store, job_id: int) -> Scope:
    """The annotations of one job."""
    job = find_job(store, job_id)
    return Scope(store, find_task(store, job["task_id"]), [job], drops=False)


def routes(store: Store) -> APIRouter:
    """GET, PUT, PATCH and DELETE of annotations, with and without a trailing slash."""
    router = APIRouter()

    def change(make: Callable[[], Scope], method: str, action: str, body: Record) -> Response:
        with store.transaction():
            scope = make()
            if method == "PUT" or action == "create":
                made = scope.replace(body) if method == "PUT" else scope.create(body)
                return Response(made, media_type="application/json")
            act = {"update": scope.update, "delete": scope.delete}
            if action not in act:
                raise RefusalError(400, 'Please specify a correct "action" for the request')
            return reply(act[action](body))

    def serve(family: str, make: Callable[[Store, int], Scope]) -> None:
        path = f"/api/{family}/{{owner_id}}/annotations"

        def read(owner_id: int) -> Response:
            return Response(make(store, owner_id).read(), media_type="application/json")

        async def write(owner_id: int, request: Request) -> Response:
            body = await json_body(request)
            action = request.query_params.get("action", "")
            return await run_in_threadpool(
                change, lambda: make(store, owner_id), request.method, action, body
            )

        def remove(owner_id: int) -> Response:
            with store.transaction():
                make(store, owner_id).clear()
            return empty()

        for route in (path, f"{path}/"):
            router.add_api_route(route, read, methods=["GET"])
            router.add_api_route(route, write, methods=["PUT", "PATCH"])
            router.add_api_route(route, remove, methods=["DELETE"])

    serve("tasks", task_scope)
    serve("jobs", job_scope)
    return router
