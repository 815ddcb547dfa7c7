"""CVAT's JSON as our values, and our annotations as its JSON.

Knows CVAT's field names; knows neither the SDK nor what a mask means.
"""

import csv
import io
import json
from datetime import datetime
from typing import Any

from casebook.errors import RemoteError
from cvat_sync.remote import (
    RemoteAnnotations,
    RemoteJob,
    RemoteLabel,
    RemoteProject,
    RemoteShape,
    RemoteTag,
    RemoteTask,
    WorkingTime,
)

Json = dict[str, Any]
"""One JSON document of CVAT's API."""
_WORKING_TIME = "send:working_time"


def project(entry: Json) -> RemoteProject:
    """A project as listed or just created."""
    return RemoteProject(int(entry["id"]), str(entry["name"]), str(entry["bug_tracker"] or ""))


def label(entry: Json) -> RemoteLabel:
    """A label as listed."""
    attributes = {str(one["name"]): int(one["id"]) for one in entry["attributes"]}
    return RemoteLabel(int(entry["id"]), str(entry["name"]), attributes)


def task(entry: Json) -> RemoteTask:
    """A task as listed or just created."""
    return RemoteTask(
        id=int(entry["id"]),
        name=str(entry["name"]),
        key=str(entry["bug_tracker"] or ""),
        n_frames=int(entry.get("size") or 0),
    )


def job(entry: Json) -> RemoteJob:
    """A job as listed; its assignee becomes a number."""
    assignee = entry.get("assignee")
    return RemoteJob(
        id=int(entry["id"]),
        task_id=int(entry["task_id"]),
        start_frame=int(entry["start_frame"]),
        stop_frame=int(entry["stop_frame"]),
        stage=str(entry["stage"]),
        state=str(entry["state"]),
        annotator=f"annotator-{assignee['id']}" if assignee else None,
        created=datetime.fromisoformat(entry["created_date"]),
        updated=datetime.fromisoformat(entry["updated_date"]),
    )


def _attributes(entry: Json) -> dict[int, str]:
    return {int(one["spec_id"]): str(one["value"]) for one in entry.get("attributes") or []}


def annotations(payload: bytes) -> RemoteAnnotations:
    """The annotations of a task or job.

    Raises:
        RemoteError: the answer is not what CVAT answers.
    """
    try:
        body = json.loads(payload)
        shapes = tuple(
            RemoteShape(
                id=entry.get("id"),
                frame=int(entry["frame"]),
                label_id=int(entry["label_id"]),
                type=str(entry["type"]),
                points=entry.get("points") or (),
                source=str(entry.get("source") or "manual"),
                score=float(entry.get("score", 1.0)),
                attributes=_attributes(entry),
            )
            for entry in body["shapes"]
        )
        tags = tuple(
            RemoteTag(
                entry.get("id"), int(entry["frame"]), int(entry["label_id"]), _attributes(entry)
            )
            for entry in body["tags"]
        )
        return RemoteAnnotations(shapes, tags, len(body.get("tracks") or ()))
    except (ValueError, KeyError, TypeError) as problem:
        raise RemoteError(
            f"CVAT's annotations cannot be read ({type(problem).__name__}: {problem}); "
            "check the server's version with `cvatsync doctor`"
        ) from None


def annotations_body(drawn: RemoteAnnotations) -> Json:
    """Annotations as a PUT of CVAT takes them."""
    shapes = [
        {
            "type": shape.type,
            "frame": shape.frame,
            "label_id": shape.label_id,
            "points": list(shape.points),
            "source": shape.source,
            "score": shape.score,
            "occluded": False,
            "outside": False,
            "z_order": 0,
            "rotation": 0.0,
            "group": 0,
            "attributes": _spec_values(shape.attributes),
        }
        for shape in drawn.shapes
    ]
    tags = [
        {
            "frame": tag.frame,
            "label_id": tag.label_id,
            "group": 0,
            "source": "manual",
            "attributes": _spec_values(tag.attributes),
        }
        for tag in drawn.tags
    ]
    return {"version": 0, "shapes": shapes, "tags": tags, "tracks": []}


def _spec_values(attributes: dict[int, str]) -> list[Json]:
    return [{"spec_id": spec_id, "value": value} for spec_id, value in attributes.items()]


def working_times(table: bytes) -> tuple[WorkingTime, ...]:
    """Working time by job from an events export; marked when a simulated expert reported it."""
    seconds: dict[int, float] = {}
    simulated: dict[int, bool] = {}
    for row in csv.DictReader(io.StringIO(table.decode("utf-8", "replace"))):
        if row.get("scope") != _WORKING_TIME or not row.get("job_id"):
            continue
        number = int(row["job_id"])
        seconds[number] = seconds.get(number, 0.0) + int(row.get("duration") or 0) / 1000
        is_simulated = _is_simulated(row.get("payload") or "")
        simulated[number] = simulated.get(number, False) or is_simulated
    return tuple(WorkingTime(number, spent, simulated[number]) for number, spent in seconds.items())


def _is_simulated(payload: str) -> bool:
    try:
        said = json.loads(payload) if payload else {}
    except ValueError:
        return False
    return isinstance(said, dict) and said.get("simulated") is True
