"""Labels and their attributes, of a project or of a task that stands alone."""

import hashlib
import json

from fastapi import APIRouter, Request, Response

from demo.standin.replies import RefusalError, empty, json_body, page, reply, select
from demo.standin.store import Record, Store

_TYPES = frozenset(
    [
        "any",
        "cuboid",
        "ellipse",
        "mask",
        "points",
        "polygon",
        "polyline",
        "rectangle",
        "skeleton",
        "interval",
        "tag",
    ]
)
_INPUT_TYPES = frozenset({"checkbox", "radio", "number", "text", "select"})


def attributes_of(store: Store, label_id: int) -> list[Record]:
    """A label's attributes as CVAT writes them."""
    rows = store.rows("SELECT * FROM attributes WHERE label_id = ? ORDER BY id", label_id)
    return [
        {
            "id": row["id"],
            "name": row["name"],
            "mutable": bool(row["mutable"]),
            "input_type": row["input_type"],
            "default_value": row["default_value"],
            "values": json.loads(row["choices"]),
        }
        for row in rows
    ]


def labels_of_task(store: Store, task: Record) -> list[Record]:
    """The labels a task's annotations may use: its project's, else its own."""
    if task["project_id"] is not None:
        return store.rows("SELECT * FROM labels WHERE project_id = ?", task["project_id"])
    return store.rows("SELECT * FROM labels WHERE task_id = ?", task["id"])


def _check_number(attribute: Record) -> None:
    """CVAT reads the bounds of a number attribute with int(): a fraction is a server error."""
    for value in attribute.get("values", []):
        for part in str(value).split(","):
            try:
                int(part)
            except ValueError:
                raise RefusalError(
                    500, f"ValueError: invalid literal for int() with base 10: {part!r}"
                ) from None


def _write_attributes(store: Store, label_id: int, attributes: list[Record]) -> None:
    for attribute in attributes:
        if attribute.get("input_type") not in _INPUT_TYPES:
            raise RefusalError(
                400, {"input_type": [f'"{attribute.get("input_type")}" is not a valid choice.']}
            )
        if attribute["input_type"] == "number":
            _check_number(attribute)
        values = [str(value) for value in attribute.get("values", [])]
        default = attribute.get("default_value", values[0] if values else "")
        columns = (
            str(attribute["name"]),
            int(bool(attribute.get("mutable"))),
            attribute["input_type"],
            str(default),
            json.dumps(values),
        )
        if attribute.get("deleted") and "id" in attribute:
            store.run("DELETE FROM attributes WHERE id = ?", attribute["id"])
        elif "id" in attribute:
            store.run(
                "UPDATE attributes SET name = ?, mutable = ?, input_type = ?, default_value = ?,"
                " choices = ? WHERE id = ? AND label_id = ?",
                *columns,
                attribute["id"],
                label_id,
            )
        else:
            store.run(
                "INSERT INTO attributes (name, mutable, input_type, default_value, choices,"
                " label_id) VALUES (?, ?, ?, ?, ?, ?)",
                *columns,
                label_id,
            )


def write_labels(store: Store, owner_column: str, owner_id: int, labels: list[Record]) -> None:
    """Add, change or delete labels; the owner column is `project_id` or `task_id`."""
    with store.transaction():
        for label in labels:
            if "id" in label:
                _change_label(store, owner_column, owner_id, label)
                continue
            name, kind = str(label.get("name", "")), label.get("type") or "any"
            if not name:
                raise RefusalError(400, {"labels": [{"name": ["This field may not be blank."]}]})
            if kind not in _TYPES:
                raise RefusalError(
                    400, {"labels": [{"type": [f'"{kind}" is not a valid choice.']}]}
                )
            known = store.row(
                f"SELECT id FROM labels WHERE {owner_column} = ? AND name = ?",  # noqa: S608
                owner_id,
                name,
            )
            if known is not None:
                raise RefusalError(400, [f"Label names must be unique: {name!r} is repeated."])
            color = label.get("color") or "#" + hashlib.sha256(name.encode()).hexdigest()[:6]
            label_id = store.run(
                f"INSERT INTO labels ({owner_column}, name, color, type) VALUES (?, ?, ?, ?)",  # noqa: S608
                owner_id,
                name,
                color,
                kind,
            )
            _write_attributes(store, label_id, label.get("attributes", []))


def _change_label(store: Store, owner_column: str, owner_id: int, label: Record) -> None:
    found = store.row(
        f"SELECT * FROM labels WHERE id = ? AND {owner_column} = ?",  # noqa: S608
        label["id"],
        owner_id,
    )
    if found is None:
        raise RefusalError(404, f"Not found label with id #{label['id']} to change")
    if label.get("deleted"):
        store.run("DELETE FROM labels WHERE id = ?", label["id"])
        return
    store.run(
        "UPDATE labels SET name = ?, color = ?, type = ? WHERE id = ?",
        label.get("name", found["name"]),
        label.get("color", found["color"]),
        label.get("type", found["type"]),
        label["id"],
    )
    _write_attributes(store, label["id"], label.get("attributes", []))


def routes(store: Store) -> APIRouter:
    """Reading and changing labels."""
    router = APIRouter()

    def fill(label: Record) -> Record:
        return {
            "id": label["id"],
            "name": label["name"],
            "color": label["color"],
            "type": label["type"],
            "attributes": attributes_of(store, label["id"]),
            "sublabels": [],
            "project_id": label["project_id"],
            "task_id": label["task_id"],
            "parent_id": None,
            "has_parent": False,
        }

    def owner_labels(request: Request) -> list[Record]:
        query = request.query_params
        if "job_id" in query:
            task = store.row(
                "SELECT tasks.* FROM tasks JOIN jobs ON task_id = tasks.id WHERE jobs.id = ?",
                query["job_id"],
            )
        elif "task_id" in query:
            task = store.row("SELECT * FROM tasks WHERE id = ?", query["task_id"])
        elif "project_id" in query:
            return store.rows("SELECT * FROM labels WHERE project_id = ?", query["project_id"])
        else:
            return store.rows("SELECT * FROM labels")
        if task is None:
            raise RefusalError(404, "Not found.")
        return labels_of_task(store, task)

    @router.get("/api/labels")
    def list_labels(request: Request) -> Response:
        labels = select(request, owner_labels(request), {"name": "name", "type": "type"})
        if "sort" not in request.query_params:
            labels = sorted(labels, key=lambda label: label["id"])
        return page(request, labels, fill)

    @router.get("/api/labels/{label_id}")
    def one_label(label_id: int) -> Response:
        label = store.row("SELECT * FROM labels WHERE id = ?", label_id)
        if label is None:
            raise RefusalError(404, "Not found.")
        return reply(fill(label))

    @router.patch("/api/labels/{label_id}")
    async def change_label(label_id: int, request: Request) -> Response:
        label = store.row("SELECT * FROM labels WHERE id = ?", label_id)
        if label is None:
            raise RefusalError(404, "Not found.")
        column = "project_id" if label["project_id"] is not None else "task_id"
        body = await json_body(request)
        write_labels(store, column, label[column], [{**body, "id": label_id}])
        changed = store.row("SELECT * FROM labels WHERE id = ?", label_id)
        return empty() if changed is None else reply(fill(changed))

    @router.delete("/api/labels/{label_id}")
    def remove_label(label_id: int) -> Response:
        store.run("DELETE FROM labels WHERE id = ?", label_id)
        return empty()

    return router
