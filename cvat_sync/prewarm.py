"""Has the interactor look at the frames an annotator comes to next, before they are asked for.

CVAT tells a function no frame, so it cannot look ahead by itself; who knows the jobs can. The same
bytes that CVAT will send go to the function's own address. Knows no model.
"""

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from casebook.cases import FrameRef
from casebook.catalogue import Catalogue
from casebook.documents import Document
from casebook.errors import ConfigError, StateError, UnreachableError
from cvat_sync.pushed import Pushed, PushedTask
from cvat_sync.remote import Gateway, RemoteAnnotations, RemoteJob

AHEAD = 3
TIMEOUT_S = 60.0
_UNDER_WAY = "in progress"
_BY_MODEL = "auto"


class Coming(Document):
    """The frames one annotator comes to next."""

    job_id: int
    files: tuple[str, ...]


def coming(job: RemoteJob, drawn: RemoteAnnotations, task: PushedTask, ahead: int) -> Coming:
    """The frames after the last one a person worked on, or the first ones of a job."""
    touched = [shape.frame for shape in drawn.shapes if shape.source != _BY_MODEL]
    touched += [tag.frame for tag in drawn.tags]
    first = max(touched) + 1 if touched else job.start_frame
    last = min(first + ahead - 1, job.stop_frame)
    return Coming(job_id=job.id, files=task.frames[first : last + 1])


def plan_prewarm(pushed: Pushed, gateway: Gateway, ahead: int) -> tuple[Coming, ...]:
    """What to look at now: of every job that is under way, the frames that come next."""
    found = []
    for task in pushed.tasks:
        for job in gateway.jobs(task.task_id):
            if job.state == _UNDER_WAY:
                found.append(coming(job, gateway.job_annotations(job.id), task, ahead))
    return tuple(entry for entry in found if entry.files)


@dataclass
class Warmer:
    """Shows frames to a function, each once."""

    url: str
    catalogue: Catalogue
    timeout_s: float = TIMEOUT_S
    shown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Refuse an address that is none.

        Raises:
            ConfigError: it is not http://HOST:PORT.
        """
        found = urlsplit(self.url)
        if found.scheme not in {"http", "https"} or not found.hostname:
            raise ConfigError(f"--function is {self.url!r}; expected http://HOST:PORT")

    def show(self, plan: tuple[Coming, ...]) -> Iterator[str]:
        """Show the frames of a plan that have not been shown; their names, one by one.

        Raises:
            StateError: a frame is not kept here.
            UnreachableError: the function does not answer, or refuses.
        """
        for name in (name for entry in plan for name in entry.files):
            if name not in self.shown:
                self._send(self._payload(name))
                self.shown.add(name)
                yield name

    def _payload(self, name: str) -> bytes:
        ref = FrameRef.from_file_name(name)
        path = self.catalogue.frame_path(ref) if ref is not None else Path(name)
        try:
            image = path.read_bytes()
        except FileNotFoundError:
            raise StateError(
                f"frame {name} is not kept here; run it where the round was pushed"
            ) from None
        return json.dumps({"image": base64.b64encode(image).decode(), "prewarm": True}).encode()

    def _send(self, body: bytes) -> None:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self.url, body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as problem:
            problem.close()
            raise UnreachableError(
                f"the function at {self.url} refused to look ahead ({problem.code}); its log says "
                "why"
            ) from None
        except (OSError, http.client.HTTPException):
            raise UnreachableError(
                f"nothing answers at {self.url}; `nuctl get functions` shows the interactor's port"
            ) from None


def follow(
    look: Callable[[], tuple[Coming, ...]],
    warmer: Warmer,
    tell: Callable[[str], None],
    wait: Callable[[], bool],
) -> None:
    """Look at the jobs and show what comes next, until `wait` says that it was enough."""
    while True:
        for name in warmer.show(look()):
            tell(name)
        if not wait():
            return
