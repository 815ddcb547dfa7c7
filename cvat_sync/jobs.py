"""What is done to a job in CVAT: given to somebody, opened again, a rectangle made a mask.

Knows CVAT's paths; knows neither the SDK nor what a mask means.
"""

from collections.abc import Sequence

from casebook.errors import DataError
from cvat_sync.answers import annotations_body
from cvat_sync.remote import RemoteAnnotations, RemoteIssue, RemoteShape
from cvat_sync.rest import Answer, Rest, listed, parsed


class _User(Answer):
    id: int
    username: str


class _Issue(Answer):
    id: int
    frame: int


class _Comment(Answer):
    id: int
    message: str


class _Frame(Answer):
    name: str


class _Frames(Answer):
    frames: tuple[_Frame, ...]


class _Meta(Answer):
    start_frame: int
    stop_frame: int
    included_frames: tuple[int, ...] | None = None
    deleted_frames: tuple[int, ...] = ()


def user_ids(rest: Rest, names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of some users, in the order of their names.

    Raises:
        DataError: CVAT does not know one of them, or does not let us see it.
    """
    if not names:
        return ()
    known = {user.username: user.id for user in listed(rest, "list users", "/api/users", _User)}
    strangers = [name for name in names if name not in known]
    if strangers:
        raise DataError(
            f"CVAT has no user {', '.join(map(repr, strangers))}, or does not show it to us; "
            "correct assignees in cvat.yaml"
        )
    return tuple(known[name] for name in names)


def assign(rest: Rest, job_id: int, user_id: int) -> None:
    """Give a job to a user."""
    rest.send(f"assign job {job_id}", "PATCH", f"/api/jobs/{job_id}", {"assignee": user_id})


def reopen(rest: Rest, job_id: int) -> None:
    """Give a completed job back to its annotator."""
    state = {"stage": "annotation", "state": "in progress"}
    rest.send(f"open job {job_id} again", "PATCH", f"/api/jobs/{job_id}", state)


def change_shape(rest: Rest, job_id: int, shape: RemoteShape) -> None:
    """Replace one shape of a job, in one step: its id stays, its type may change.

    Source: cvat-ai/cvat, cvat/apps/dataset_manager/task.py, JobAnnotation.update.
    """
    body = annotations_body(RemoteAnnotations((shape,)))
    body["shapes"][0]["id"] = shape.id
    path = f"/api/jobs/{job_id}/annotations/?action=update"
    rest.send(f"change shape {shape.id} of job {job_id}", "PATCH", path, body)


def frames_of(rest: Rest, job_id: int) -> tuple[int, ...]:
    """Positions in the task of a job's frames; those of a ground truth job are scattered."""
    what = f"frames of job {job_id}"
    meta = parsed(what, rest.read(what, f"/api/jobs/{job_id}/data/meta"), _Meta)
    if meta.included_frames is not None:
        return meta.included_frames
    return tuple(range(meta.start_frame, meta.stop_frame + 1))


def frame_names(rest: Rest, task_id: int) -> tuple[str, ...]:
    """File names of a task's frames, in frame order."""
    what = f"frames of task {task_id}"
    meta = parsed(what, rest.read(what, f"/api/tasks/{task_id}/data/meta"), _Frames)
    return tuple(frame.name for frame in meta.frames)


def deleted_frames(rest: Rest, task_id: int) -> tuple[int, ...]:
    """Positions of the frames somebody has deleted from a task."""
    what = f"frames of task {task_id}"
    return parsed(what, rest.read(what, f"/api/tasks/{task_id}/data/meta"), _Meta).deleted_frames


def issues_of(rest: Rest, job_id: int) -> tuple[RemoteIssue, ...]:
    """The issues raised in a job, with their comments in one text."""
    found = []
    for issue in listed(rest, f"issues of job {job_id}", f"/api/issues?job_id={job_id}", _Issue):
        path = f"/api/comments?issue_id={issue.id}"
        comments = listed(rest, f"comments of issue {issue.id}", path, _Comment)
        ordered = sorted(comments, key=lambda comment: comment.id)
        text = " / ".join(comment.message for comment in ordered)
        found.append(RemoteIssue(issue.frame, text))
    return tuple(found)
