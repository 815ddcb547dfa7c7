"""Comments on frames as CVAT issues: each is posted once, whoever asks how often.

A comment's identity is a mark at the end of its text, so CVAT itself remembers what was posted.
Knows issues; knows nothing of why a comment is made.
"""

from collections.abc import Callable, Sequence

from tenacity import Retrying

from casebook.documents import Document
from cvat_sync.findings import QualityFinding
from cvat_sync.marks import keys_of, marked
from cvat_sync.pushed import Pushed
from cvat_sync.remote import RemoteJob
from cvat_sync.rest import Answer, Rest, listed

_SHOWN = 20


class _Comment(Answer):
    id: int
    message: str = ""


class Comment(Document):
    """A comment on its way to a frame."""

    job_id: int
    frame: int
    """Position in the task."""
    file_name: str
    key: str
    text: str
    box_xyxy: tuple[int, int, int, int]

    @property
    def message(self) -> str:
        """The text with its mark."""
        return marked(self.text, self.key)


class CommentPlan(Document):
    """Comments to post, and how many are there already."""

    round: int
    comments: tuple[Comment, ...]
    known: int = 0

    def lines(self) -> tuple[str, ...]:
        """The plan in words."""
        shown = [f"  job {one.job_id}, {one.file_name}: {one.text}" for one in self.comments]
        more = [f"  … and {len(shown) - _SHOWN} more"] if len(shown) > _SHOWN else []
        head = f"round {self.round:02d}: {len(self.comments)} comments to post"
        return (f"{head}, {self.known} posted before", *shown[:_SHOWN], *more)


def posted(rest: Rest, job_id: int) -> frozenset[str]:
    """Marks of the comments a job has."""
    what = f"comments of job {job_id}"
    found = listed(rest, what, f"/api/comments?job_id={job_id}", _Comment)
    return keys_of(comment.message for comment in found)


def comments_on(
    pushed: Pushed, jobs: Sequence[RemoteJob], found: Sequence[QualityFinding]
) -> tuple[Comment, ...]:
    """Each finding beside the job its frame is in; frames of no job are left out."""
    places: dict[str, tuple[int, int]] = {}
    frames = {task.task_id: task.frames for task in pushed.tasks}
    for job in sorted(jobs, key=lambda job: job.id):
        for number in range(job.start_frame, job.stop_frame + 1):
            places.setdefault(frames[job.task_id][number], (job.id, number))
    return tuple(
        Comment(
            job_id=places[one.file_name][0],
            frame=places[one.file_name][1],
            file_name=one.file_name,
            key=one.key,
            text=one.text,
            box_xyxy=one.box_xyxy,
        )
        for one in found
        if one.file_name in places
    )


def plan_comments(number: int, wanted: Sequence[Comment], rest: Rest) -> CommentPlan:
    """The comments that are not in CVAT yet."""
    there = {job_id: posted(rest, job_id) for job_id in sorted({one.job_id for one in wanted})}
    new = tuple(one for one in wanted if one.key not in there[one.job_id])
    return CommentPlan(round=number, comments=new, known=len(wanted) - len(new))


def post(plan: CommentPlan, rest: Rest, retrying: Callable[[], Retrying]) -> int:
    """Post the comments of a plan; how many were not there yet.

    Raises:
        RemoteError: CVAT refused or stayed unreachable; run again to post the rest.
    """
    done = 0
    for comment in plan.comments:
        attempts = [False]

        def attempt(comment: Comment = comment, attempts: list[bool] = attempts) -> bool:
            # An answer may have been lost after its effect: look before trying again.
            if attempts[0] and comment.key in posted(rest, comment.job_id):
                return True
            attempts[0] = True
            spec = {
                "job": comment.job_id,
                "frame": comment.frame,
                "position": [float(value) for value in comment.box_xyxy],
                "message": comment.message,
            }
            rest.send(f"comment on {comment.file_name}", "POST", "/api/issues", spec)
            return True

        done += int(retrying()(attempt))
    return done
