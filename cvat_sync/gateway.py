"""A CVAT server through cvat-sdk: the one module that knows the SDK.

Retries what is safe to repeat. Documents travel as plain JSON: the SDK's shape models cost 28
times a dict and read half as fast.
"""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import urllib3
from cvat_sdk.api_client import exceptions
from cvat_sdk.core.client import AccessTokenCredentials, Client, Config
from cvat_sdk.core.downloading import Downloader
from cvat_sdk.core.exceptions import CvatSdkException, InvalidHostException
from cvat_sdk.core.helpers import get_paginated_collection, make_request_headers
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from casebook.errors import AccessError, RemoteError, UnreachableError
from casebook.labels import LabelSet
from cvat_sync import answers
from cvat_sync.labels import label_specs
from cvat_sync.remote import (
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
POLL_S = 0.2
"""The SDK's default of 5 s makes every upload wait that long."""
TIMEOUT_S = 120.0
ATTEMPTS = 6
_TRANSIENT = frozenset({429, 502, 503, 504})
_PAGE = 100


def retrying() -> Retrying:
    """Attempts with random exponential back-off, for failures that may pass."""
    return Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        retry=retry_if_exception_type(UnreachableError),
        reraise=True,
    )


@contextmanager
def _translated(what: str, url: str) -> Iterator[None]:
    """Turn the SDK's errors into ours."""
    try:
        yield
    except exceptions.ApiException as problem:
        raise _error(problem, what, url) from None
    except (urllib3.exceptions.HTTPError, InvalidHostException) as problem:
        raise UnreachableError(
            f"{what}: no answer from CVAT at {url} ({type(problem).__name__}); "
            "check ANGIOLOOP_CVAT_URL and that the server runs"
        ) from None
    except CvatSdkException as problem:
        raise RemoteError(f"{what}: CVAT at {url} failed: {problem}") from None


def _error(problem: exceptions.ApiException, what: str, url: str) -> RemoteError:
    body = problem.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    said = " ".join(text.split())[:200]
    if problem.status in {401, 403} or "Unable to log in" in said:
        return AccessError(
            f"{what}: CVAT at {url} refused the credentials ({problem.status}); check "
            "ANGIOLOOP_CVAT_TOKEN, or ANGIOLOOP_CVAT_USER and ANGIOLOOP_CVAT_PASSWORD"
        )
    if problem.status in _TRANSIENT:
        return UnreachableError(f"{what}: CVAT at {url} is busy ({problem.status}); try again")
    return RemoteError(f"{what}: CVAT at {url} answered {problem.status}: {said}")


def _with_timeout(request: Callable[..., Any]) -> Callable[..., Any]:
    """The SDK's HTTP call with a timeout: by default it waits for ever."""

    def call(*args: Any, **options: Any) -> Any:
        options["_request_timeout"] = options.get("_request_timeout") or TIMEOUT_S
        return request(*args, **options)

    return call


def _send(client: Client, method: str, path: str, body: object = None) -> bytes:
    answer = client.api_client.rest_client.request(
        method,
        f"{client.api_map.host}{path}",
        headers=make_request_headers(client.api_client),
        body=body,
    )
    return bytes(answer.data)


class CvatGateway:
    """A `Gateway` over HTTP; each thread logs in once and keeps its own connection."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._local = threading.local()
        self._clients: list[Client] = []

    def __enter__(self) -> "CvatGateway":
        """Log in.

        Raises:
            AccessError: wrong credentials.
            UnreachableError: no such server, or not now.
        """
        self._read("log in", "/api/users/self")
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
            config=Config(status_check_period=POLL_S),
            check_server_version=False,
        )
        rest = client.api_client.rest_client
        rest.request = _with_timeout(rest.request)
        # urllib3's own repetitions would hide in ours: one place decides.
        rest.pool_manager.connection_pool_kw["retries"] = False
        if access.token is not None:
            client.login(AccessTokenCredentials(access.token))
        else:
            client.login((access.user or "", access.password or ""))
        self._local.client = client
        self._clients.append(client)
        return client

    def _once(self, what: str, call: Callable[[Client], R]) -> R:
        with _translated(what, self._access.url):
            return call(self._client())

    def _retried(self, what: str, call: Callable[[Client], R]) -> R:
        answer: R = retrying()(self._once, what, call)
        return answer

    def _read(self, what: str, path: str) -> bytes:
        return self._retried(what, lambda client: _send(client, "GET", path))

    def read(self, what: str, path: str) -> bytes:
        """The body of a GET."""
        return self._read(what, path)

    def send(self, what: str, method: str, path: str, body: object = None) -> bytes:
        """The answer to a change; never repeated, the caller looks before trying again."""
        return self._once(what, lambda client: _send(client, method, path, body))

    def _list(self, what: str, api: str, **query: object) -> list[answers.Json]:
        def call(client: Client) -> list[answers.Json]:
            endpoint = getattr(client.api_client, api).list_endpoint
            found: list[answers.Json] = get_paginated_collection(
                endpoint, return_json=True, page_size=_PAGE, _parse_response=False, **query
            )
            return found

        return self._retried(what, call)

    def about(self) -> str:
        """Name and version of the server, and who we are there."""
        about = json.loads(self._read("about", "/api/server/about"))
        me = json.loads(self._read("who am I", "/api/users/self"))
        return f"{about['name']} {about['version']}, as user {me['username']}"

    def functions(self) -> tuple[str, ...]:
        """Names of the serverless functions it offers."""
        found = json.loads(self._read("list functions", "/api/lambda/functions"))
        return tuple(str(entry["id"]) for entry in found)

    def projects(self) -> tuple[RemoteProject, ...]:
        """All projects we see."""
        return tuple(map(answers.project, self._list("list projects", "projects_api")))

    def create_project(self, name: str, key: str, labels: LabelSet) -> RemoteProject:
        """A new project; the caller looks for one before trying again."""
        spec = {"name": name, "bug_tracker": key, "labels": label_specs(labels)}
        what = f"create project {name!r}"
        made = self._once(what, lambda client: _send(client, "POST", "/api/projects", spec))
        return answers.project(json.loads(made))

    def add_labels(self, project_id: int, labels: LabelSet, names: Sequence[str]) -> None:
        """Add some labels of a label set to a project."""
        body = {"labels": [spec for spec in label_specs(labels) if spec["name"] in names]}
        path = f"/api/projects/{project_id}"
        self._once(
            f"add labels to project {project_id}",
            lambda client: _send(client, "PATCH", path, body),
        )

    def labels(self, project_id: int) -> tuple[RemoteLabel, ...]:
        """The labels of a project."""
        found = self._list("list labels", "labels_api", project_id=project_id)
        return tuple(map(answers.label, found))

    def tasks(self, project_id: int) -> tuple[RemoteTask, ...]:
        """All tasks of a project."""
        found = self._list("list tasks", "tasks_api", project_id=project_id)
        return tuple(map(answers.task, found))

    def create_task(
        self, project_id: int, name: str, key: str, files: Sequence[Path], frames_per_job: int
    ) -> RemoteTask:
        """A new task with its frames; the caller looks for one before trying again."""
        spec = {
            "name": name,
            "project_id": project_id,
            "bug_tracker": key,
            "segment_size": frames_per_job,
            "overlap": 0,
        }

        def call(client: Client) -> RemoteTask:
            made = answers.task(json.loads(_send(client, "POST", "/api/tasks", spec)))
            entity = client.tasks.retrieve(made.id)
            # The SDK's default quality of 70 is for viewing; what is annotated must be lossless.
            params = {"image_quality": 100, "sorting_method": "lexicographical"}
            entity.upload_data(files, params=params, status_check_period=POLL_S)
            return answers.task(json.loads(_send(client, "GET", f"/api/tasks/{made.id}")))

        return self._once(f"create task {name!r}", call)

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
        meta = json.loads(
            self._read(f"frames of task {task_id}", f"/api/tasks/{task_id}/data/meta")
        )
        return tuple(str(frame["name"]) for frame in meta["frames"])

    def jobs(self, task_id: int) -> tuple[RemoteJob, ...]:
        """The annotation jobs of a task, by id; ground truth and replicas are not ours."""
        found = self._list(f"jobs of task {task_id}", "jobs_api", task_id=task_id)
        ours = [answers.job(entry) for entry in found if entry["type"] == "annotation"]
        return tuple(sorted(ours, key=lambda job: job.id))

    def task_annotations(self, task_id: int) -> RemoteAnnotations:
        """What is drawn in a task."""
        path = f"/api/tasks/{task_id}/annotations/"
        return answers.annotations(self._read(f"annotations of task {task_id}", path))

    def job_annotations(self, job_id: int) -> RemoteAnnotations:
        """What is drawn in a job."""
        path = f"/api/jobs/{job_id}/annotations/"
        return answers.annotations(self._read(f"annotations of job {job_id}", path))

    def replace_annotations(self, task_id: int, annotations: RemoteAnnotations) -> None:
        """Replace everything drawn in a task."""
        body, path = answers.annotations_body(annotations), f"/api/tasks/{task_id}/annotations/"
        self._retried(
            f"write the masks of task {task_id}", lambda client: _send(client, "PUT", path, body)
        )

    def issues(self, job_id: int) -> tuple[RemoteIssue, ...]:
        """The issues raised in a job, with their comments in one text."""
        found = []
        for issue in self._list(f"issues of job {job_id}", "issues_api", job_id=job_id):
            query = {"issue_id": issue["id"]}
            comments = self._list(f"comments of issue {issue['id']}", "comments_api", **query)
            ordered = sorted(comments, key=lambda comment: int(comment["id"]))
            text = " / ".join(str(comment["message"]) for comment in ordered)
            found.append(RemoteIssue(int(issue["frame"]), text))
        return tuple(found)

    def working_times(self, project_id: int) -> tuple[WorkingTime, ...]:
        """Time spent by job, from CVAT's analytics; fails where there are none."""

        def call(client: Client) -> bytes:
            endpoint = client.api_client.events_api.create_export_endpoint
            done = Downloader(client).prepare_file(
                endpoint, query_params={"project_id": project_id}, status_check_period=POLL_S
            )
            answer = client.api_client.rest_client.request(
                "GET", done.result_url, headers=make_request_headers(client.api_client)
            )
            return bytes(answer.data)

        return answers.working_times(self._retried("export working times", call))
