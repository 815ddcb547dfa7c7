"""A CVAT server through cvat-sdk: the one module that knows the SDK.

Retries what is safe to repeat. Documents travel as plain JSON: the SDK's shape models cost 28
times a dict and read half as fast.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import urllib3
from cvat_sdk.api_client import exceptions
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.core.exceptions import CvatSdkException, InvalidHostException
from cvat_sdk.core.helpers import make_request_headers
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from casebook.errors import RemoteError, UnreachableError
from casebook.labels import LabelSet
from cvat_sync import answers, forms, jobs
from cvat_sync.labels import label_specs
from cvat_sync.refusals import not_cvat, refusal, untrusted
from cvat_sync.remote import (
    LabelSpec,
    NewTask,
    RemoteAnnotations,
    RemoteIssue,
    RemoteJob,
    RemoteLabel,
    RemoteProject,
    RemoteTask,
    WorkingTime,
)
from cvat_sync.settings import Access

R = TypeVar("R")
POLL_S = 0.005
"""First wait for work the server does in the background; the SDK's default is 5 s."""
_POLL_GROWTH, _POLL_MAX_S = 1.5, 1.0
TIMEOUT_S = 120.0
"""For one request."""
BACKGROUND_S = 1800.0
"""For work the server does in the background, such as reading the frames of a task."""
ATTEMPTS = 6
_TRANSIENT = frozenset({429, 502, 503, 504})
_TRANSIENT_READ = _TRANSIENT | {500}
"""A change that ends in a 500 is refused for what it says; a read may be tried again."""
_PAGE = 100
_FORM_BYTES = 100 * 2**20
"""Of files in one request, as the SDK sends at most."""
_FRAME_TYPE = "image/png"
_UPLOADS = 3
"""Tasks whose frames are sent at a time. The first is whole early: CVAT works on it, and its masks
are written, while the frames of others are on their way."""


def retrying() -> Retrying:
    """Attempts with random exponential back-off, for failures that may pass."""
    return Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_exception_type(UnreachableError),
        reraise=True,
    )


@contextmanager
def _translated(what: str, url: str, transient: frozenset[int]) -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except exceptions.ApiException as problem:
        if not problem.status:  # the SDK's word for a failed TLS handshake
            raise untrusted(what, url, problem.reason) from None
        said = problem.status, problem.body, problem.headers or {}
        raise refusal(what, url, *said, transient) from None
    except (urllib3.exceptions.HTTPError, InvalidHostException) as problem:
        raise UnreachableError(
            f"{what}: no answer from CVAT at {url} ({type(problem).__name__}); "
            "check ANGIOLOOP_CVAT_URL and that the server runs"
        ) from None
    except CvatSdkException as problem:
        raise RemoteError(f"{what}: CVAT at {url} failed: {problem}") from None


@contextmanager
def _readable(what: str, url: str) -> Iterator[None]:
    """Turn what reading an answer that is not CVAT's raises into our error."""
    try:
        yield
    except urllib3.exceptions.HTTPError:  # some of them are values' errors too
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise not_cvat(what, url) from None


def _with_timeout(request: Callable[..., Any]) -> Callable[..., Any]:
    """The SDK's HTTP call with a timeout: by default it waits for ever."""

    def call(*args: Any, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT_S
        return request(*args, **options)

    return call


def _send(client: Client, method: str, path: str, body: object = None, **said: str) -> bytes:
    answer = client.api_client.rest_client.request(
        method,
        f"{client.api_map.host}{path}",
        headers={**make_request_headers(client.api_client), **said},
        body=body,
    )
    return bytes(answer.data)


def _send_form(client: Client, path: str, form: forms.Form, **said: str) -> bytes:
    """Send a form, its files read one by one; the SDK's own call holds all of them three times."""
    said |= {"Content-Type": form.content_type, "Content-Length": str(form.n_bytes)}
    answer = client.api_client.rest_client.pool_manager.request(
        "POST",
        f"{client.api_map.host}{path}",
        body=form.pieces(),
        headers={**make_request_headers(client.api_client), **said},
        timeout=TIMEOUT_S,
    )
    if not 200 <= answer.status < 300:
        raise exceptions.ApiException(http_resp=answer)
    return bytes(answer.data)


def _send_frames(client: Client, path: str, new: NewTask) -> bytes:
    """Send a task's frames in one request.

    Several do where they are over 100 MiB, or where CVAT is to choose frames to check, which a
    form cannot say.
    """
    fields = answers.upload_fields(new.options)
    parts = forms.groups(new.files, _FORM_BYTES)
    if len(parts) == 1 and new.options.validation is None:
        return _send_form(client, path, forms.form(fields, new.files, _FRAME_TYPE))
    _send(client, "POST", path, **{"Upload-Start": ""})
    for part in parts:
        form = forms.form({"image_quality": fields["image_quality"]}, part, _FRAME_TYPE)
        _send_form(client, path, form, **{"Upload-Multiple": ""})
    return _send(client, "POST", path, fields, **{"Upload-Finish": ""})


class CvatGateway:
    """A `Gateway` over HTTP; each thread logs in with its first request and stays connected."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._local = threading.local()
        self._clients: list[Client] = []
        self._uploads = threading.BoundedSemaphore(_UPLOADS)

    def __enter__(self) -> "CvatGateway":
        """Nothing is asked yet."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections of all threads."""
        for client in self._clients:
            client.api_client.close()

    def _client(self) -> Client:
        known: Client | None = getattr(self._local, "client", None)
        if known is not None:
            return known
        access = self._access
        client = Client(
            access.url,
            logger=logging.getLogger("cvat_sync.sdk"),
            config=Config(verify_ssl=True),
            check_server_version=False,
        )
        client.organization_slug = access.organisation
        rest = client.api_client.rest_client
        if access.ca_file is not None:
            rest.pool_manager.connection_pool_kw["ca_certs"] = str(access.ca_file)
        rest.request = _with_timeout(rest.request)
        # urllib3's own repetitions would hide in ours: one place decides.
        rest.pool_manager.connection_pool_kw["retries"] = False
        with _readable("log in", access.url):
            if access.token is not None:
                client.login(AccessTokenCredentials(access.token))
            else:
                client.login((access.user or "", access.password or ""))
        self._local.client = client
        self._clients.append(client)
        return client

    def _once(
        self, what: str, call: Callable[[Client], R], transient: frozenset[int] = _TRANSIENT
    ) -> R:
        with _translated(what, self._access.url, transient):
            return call(self._client())

    def _retried(
        self, what: str, call: Callable[[Client], R], transient: frozenset[int] = _TRANSIENT
    ) -> R:
        answer: R = retrying()(self._once, what, call, transient)
        return answer

    def read(self, what: str, path: str) -> bytes:
        """The body of a GET."""
        return self._retried(what, lambda client: _send(client, "GET", path), _TRANSIENT_READ)

    def send(self, what: str, method: str, path: str, body: object = None) -> bytes:
        """The answer to a change; never repeated, the caller looks before trying again."""
        return self._once(what, lambda client: _send(client, method, path, body))

    def _understood(self, what: str, payload: bytes, reading: Callable[[Any], R]) -> R:
        """What is read of an answer.

        Raises:
            RemoteError: it is not one of CVAT's.
        """
        with _readable(what, self._access.url):
            return reading(json.loads(payload))

    def _list(
        self, what: str, family: str, reading: Callable[[answers.Json], R], **query: object
    ) -> tuple[R, ...]:
        found: list[R] = []
        for page in count(1):
            asked = urlencode({**query, "page_size": _PAGE, "page": page})
            payload = self.read(what, f"/api/{family}?{asked}")
            found += self._understood(what, payload, lambda body: [*map(reading, body["results"])])
            if self._understood(what, payload, lambda body: body["next"] is None):
                break
        return tuple(found)

    def about(self) -> str:
        """Name and version of the server, and who we are there."""
        about = self.read("about", "/api/server/about")
        me = self.read("who am I", "/api/users/self")
        server = self._understood("about", about, lambda body: f"{body['name']} {body['version']}")
        name = self._understood("who am I", me, lambda body: str(body["username"]))
        return f"{server}, as user {name}"

    def projects(self) -> tuple[RemoteProject, ...]:
        """All projects we see."""
        return self._list("list projects", "projects", answers.project)

    def create_project(self, name: str, key: str, labels: LabelSet) -> RemoteProject:
        """A new project; the caller looks for one before trying again."""
        spec = {"name": name, "bug_tracker": key, "labels": label_specs(labels)}
        what = f"create project {name!r}"
        made = self._once(what, lambda client: _send(client, "POST", "/api/projects", spec))
        return self._understood(what, made, answers.project)

    def change_labels(self, project_id: int, changes: Sequence[LabelSpec]) -> None:
        """Add labels, or attributes to labels named by their id; nothing is ever removed."""
        body, path = {"labels": list(changes)}, f"/api/projects/{project_id}"
        self._once(
            f"change the labels of project {project_id}",
            lambda client: _send(client, "PATCH", path, body),
        )

    def labels(self, project_id: int) -> tuple[RemoteLabel, ...]:
        """The labels of a project."""
        return self._list("list labels", "labels", answers.label, project_id=project_id)

    def tasks(self, project_id: int) -> tuple[RemoteTask, ...]:
        """All tasks of a project."""
        return self._list("list tasks", "tasks", answers.task, project_id=project_id)

    def create_task(self, new: NewTask) -> RemoteTask:
        """A new task with its frames; the caller looks for one before trying again."""
        what = f"create task {new.name!r}"

        def call(client: Client) -> RemoteTask:
            spec = answers.task_body(new)
            sent = _send(client, "POST", "/api/tasks", spec)
            made = self._understood(what, sent, answers.task)
            with self._uploads:
                told = _send_frames(client, f"/api/tasks/{made.id}/data/", new)
            self._finished(what, self._understood(what, told, lambda body: str(body["rq_id"])))
            return replace(made, n_frames=len(new.files))

        return self._once(what, call)

    def _finished(self, what: str, rq_id: str) -> answers.Json:
        """What the server says of work in the background, once it is done.

        Raises:
            RemoteError: it failed.
            UnreachableError: it takes longer than half an hour.
        """
        path = f"/api/requests/{quote(rq_id, safe='')}"
        deadline, pause_s = time.monotonic() + BACKGROUND_S, POLL_S
        while True:
            request: answers.Json = self._understood(what, self.read(what, path), dict)
            status = request.get("status")
            if status == "finished":
                return request
            if status == "failed":
                said = " ".join(str(request.get("message") or "no reason given").split())[-200:]
                raise RemoteError(f"{what}: CVAT at {self._access.url} failed: {said}")
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"{what}: CVAT at {self._access.url} has not finished within "
                    f"{BACKGROUND_S / 60:.0f} min; check its workers, then run again"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * _POLL_GROWTH, _POLL_MAX_S)

    def delete_task(self, task_id: int) -> None:
        """Delete a task; one that is gone already is fine."""

        def call(client: Client) -> None:
            try:
                _send(client, "DELETE", f"/api/tasks/{task_id}")
            except exceptions.NotFoundException:
                return

        self._retried(f"delete task {task_id}", call)

    def frame_names(self, task_id: int) -> tuple[str, ...]:
        """File names of a task's frames, in frame order."""
        return jobs.frame_names(self, task_id)

    def deleted_frames(self, task_id: int) -> tuple[int, ...]:
        """Positions of the frames somebody has deleted from a task."""
        return jobs.deleted_frames(self, task_id)

    def job_frames(self, job_id: int) -> tuple[int, ...]:
        """Positions in the task of a job's frames; those of a ground truth job are scattered."""
        return jobs.frames_of(self, job_id)

    def jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        """The annotation jobs of a task, by id."""
        return tuple(job for job in self.all_jobs(task_id) if job.kind == "annotation")

    def all_jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        """All jobs of a task, by id: ground truth and consensus replicas too."""
        found = self._list(f"jobs of task {task_id}", "jobs", answers.job, task_id=task_id)
        return tuple(sorted(found, key=lambda job: job.id))

    def task_annotations(self, task_id: int) -> RemoteAnnotations:
        """What is drawn in a task."""
        path = f"/api/tasks/{task_id}/annotations/"
        return answers.annotations(self.read(f"annotations of task {task_id}", path))

    def job_annotations(self, job_id: int) -> RemoteAnnotations:
        """What is drawn in a job."""
        path = f"/api/jobs/{job_id}/annotations/"
        return answers.annotations(self.read(f"annotations of job {job_id}", path))

    def replace_annotations(self, task_id: int, annotations: RemoteAnnotations) -> None:
        """Replace everything drawn in a task."""
        self._replace("tasks", task_id, annotations)

    def replace_in_job(self, job_id: int, annotations: RemoteAnnotations) -> None:
        """Replace everything drawn in a job."""
        self._replace("jobs", job_id, annotations)

    def _replace(self, family: str, number: int, annotations: RemoteAnnotations) -> None:
        body, path = answers.annotations_body(annotations), f"/api/{family}/{number}/annotations/"
        what = f"write the masks of {family[:-1]} {number}"
        self._retried(what, lambda client: _send(client, "PUT", path, body))

    def issues(self, job_id: int) -> tuple[RemoteIssue, ...]:
        """The issues raised in a job, with their comments in one text."""
        return jobs.issues_of(self, job_id)

    def working_times(self, project_id: int) -> tuple[WorkingTime, ...]:
        """Time spent by job, from CVAT's analytics; fails where there are none."""
        what, path = "export working times", f"/api/events/export?project_id={project_id}"
        asked = self._retried(what, lambda client: _send(client, "POST", path))
        done = self._finished(what, self._understood(what, asked, lambda body: str(body["rq_id"])))
        # The server names itself as it knows itself; we stay with the address we were given.
        with _readable(what, self._access.url):
            place = urlsplit(str(done["result_url"]))._replace(scheme="", netloc="")
        return answers.working_times(self.read(what, place.geturl()))
