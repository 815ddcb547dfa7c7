"""Where a round stands, here and in CVAT, and whether CVAT can be used at all."""

from collections import Counter
from typing import Literal

from pydantic import Field

from casebook.documents import Document
from casebook.embedded import worker_alive
from casebook.errors import AngioloopError, ConfigError
from casebook.home import Home
from casebook.rounds import RoundFolder
from cvat_sync.labels import missing_labels
from cvat_sync.plan import project_key
from cvat_sync.pull import is_complete, list_jobs
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway
from cvat_sync.settings import read_access


class RoundStatus(Document):
    """Where a round stands."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int
    state: str
    """Last file of the round that is there."""
    url: str | None = None
    project_id: int | None = None
    tasks: int = 0
    jobs: dict[str, int] = Field(default_factory=dict)
    """Number of jobs by state in CVAT."""
    open_jobs: tuple[int, ...] = ()
    """Ids of the jobs that are not completed."""

    def lines(self) -> tuple[str, ...]:
        """The status in words."""
        first = f"round {self.round:02d}: {self.state}"
        if self.url is None:
            return (first,)
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.jobs.items()))
        lines = [first, f"  {self.url}/projects/{self.project_id}: {self.tasks} tasks"]
        lines.append(f"  jobs: {states or 'none'}")
        if self.open_jobs:
            lines.append(f"  open: {', '.join(map(str, self.open_jobs))}")
        return tuple(lines)


class Finding(Document):
    """One thing the doctor looked at."""

    what: str
    is_well: bool
    text: str


def local_status(folder: RoundFolder) -> RoundStatus:
    """Where a round stands as its files tell."""
    return RoundStatus(round=folder.number, state=folder.state())


def remote_status(
    folder: RoundFolder, pushed: Pushed, gateway: Gateway, parallel: int
) -> RoundStatus:
    """Where a pushed round stands in CVAT."""
    jobs = list_jobs(gateway, pushed, parallel)
    return RoundStatus(
        round=folder.number,
        state=folder.state(),
        url=pushed.url,
        project_id=pushed.project_id,
        tasks=len(pushed.tasks),
        jobs=dict(Counter(job.state for job in jobs)),
        open_jobs=tuple(job.id for job in jobs if not is_complete(job)),
    )


def check_settings() -> Finding:
    """Whether the environment names a server and credentials."""
    try:
        access = read_access()
    except ConfigError as problem:
        return Finding(what="settings", is_well=False, text=str(problem))
    kind = "token" if access.token is not None else f"user {access.user}"
    return Finding(what="settings", is_well=True, text=f"{access.url} with {kind}")


def check_server(gateway: Gateway) -> tuple[Finding, ...]:
    """Whether the server answers us, and what functions it offers."""
    try:
        server = Finding(what="server", is_well=True, text=gateway.about())
    except AngioloopError as problem:
        return (Finding(what="server", is_well=False, text=str(problem)),)
    try:
        names = gateway.functions()
    except AngioloopError as problem:  # CVAT runs without its serverless part
        return (server, Finding(what="functions", is_well=False, text=str(problem)))
    text = ", ".join(names) or "none: annotators have no interactor"
    return (server, Finding(what="functions", is_well=bool(names), text=text))


def check_labels(folder: RoundFolder, gateway: Gateway) -> Finding:
    """Whether the round's project has all its labels."""
    labels = folder.manifest().labels
    ours = [one for one in gateway.projects() if one.key == project_key(labels)]
    if not ours:
        return Finding(what="project", is_well=True, text="not made yet; the first push makes it")
    project = min(ours, key=lambda one: one.id)
    lacking = missing_labels(labels, gateway.labels(project.id))
    if lacking:
        text = f"project {project.id} {project.name!r} lacks {', '.join(lacking)}"
        return Finding(what="project", is_well=False, text=f"{text}; push with --add-labels")
    return Finding(what="project", is_well=True, text=f"{project.id} {project.name!r}, all labels")


def check_worker(home: Home) -> Finding:
    """Who would make proposals."""
    if not home.embedded:
        return Finding(what="worker", is_well=True, text="broker of your own")
    text = "embedded, running" if worker_alive(home) else "embedded; started when needed"
    return Finding(what="worker", is_well=True, text=text)
