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
    NewTask,
    RemoteAnnotations,
    RemoteJob,
    RemoteLabel,
    RemoteProject,
    RemoteShape,
    RemoteTag,
    RemoteTask,
    TaskOptions,
    WorkingTime,
)

Json = dict[str, Any]
"""One JSON document of CVAT's API."""
_WORKING_TIME = "send:working_time"


def project(entry: Json) -> RemoteProject:
    """A project as listed or just created."""
    return RemoteProject(int(entry["id"]), str(entry["name"]), _key(entry))


def _key(entry: Json) -> str:
    """What we wrote into the issue tracker's address: all of it, or what follows its `#`."""
    return str(entry["bug_tracker"] or "").rpartition("#")[2]


def label(entry: Json) -> RemoteLabel:
    """A label as listed."""
    attributes = {str(one["name"]): int(one["id"]) for one in entry["attributes"]}
    kind = str(entry.get("type") or "any")
    return RemoteLabel(int(entry["id"]), str(entry["name"]), attributes, kind)


def task(entry: Json) -> RemoteTask:
    """A task as listed or just created."""
    return RemoteTask(
        id=int(entry["id"]),
        name=str(entry["name"]),
        key=_key(entry),
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
        kind=str(entry.get("type") or "annotation"),
        parent_id=entry.get("parent_job_id"),
        is_assigned=assignee is not None,
    )


def task_body(new: NewTask) -> Json:
    """A task as CVAT takes it, before its frames."""
    body: Json = {
        "name": new.name,
        "project_id": new.project_id,
        "bug_tracker": new.key,
        "segment_size": new.frames_per_job,
        "overlap": 0,
        "subset": new.options.subset,
    }
    replicas = new.options.replicas
    if replicas:
        # CVAT 2.73 knows the first name, later ones the second; unknown fields are dropped.
        body |= {"consensus_replicas": replicas, "initial_replicas": replicas}
    return body


def upload_fields(options: TaskOptions) -> Json:
    """How CVAT reads a task's frames: losslessly, in order of their names.

    The SDK's default quality of 70 is for viewing; what is annotated must be lossless. Honeypots
    force a random order: CVAT refuses any other.
    Source: cvat-ai/cvat, cvat/apps/engine/task.py.
    """
    fields: Json = {"image_quality": 100, "sorting_method": "lexicographical"}
    validation = options.validation
    if validation is None:
        return fields
    params: Json = {
        "frame_selection_method": "random_uniform",
        "frame_share": validation.share,
        "random_seed": options.seed,
    }
    if validation.mode == "ground_truth":
        return {**fields, "validation_params": {**params, "mode": "gt"}}
    pool = {**params, "mode": "gt_pool", "frames_per_job_count": validation.per_job}
    return {**fields, "sorting_method": "random", "validation_params": pool}


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
