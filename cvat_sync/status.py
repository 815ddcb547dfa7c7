"""Where a round stands, here and in CVAT."""

from collections import Counter
from typing import Literal

from pydantic import Field

from casebook.documents import Document
from casebook.home import Home
from casebook.rounds import RoundFolder
from cvat_sync.pull import is_complete, list_jobs
from cvat_sync.pushed import Pushed
from cvat_sync.remote import Gateway


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
    not_asked: str | None = None
    """Why CVAT was not asked, or did not answer; nothing when what it said is here."""

    def lines(self) -> tuple[str, ...]:
        """The status in words."""
        first = f"round {self.round:02d}: {self.state}"
        if self.not_asked is not None:
            return (f"{first}, by its files alone: {self.not_asked}",)
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.jobs.items()))
        lines = [first, f"  {self.url}/projects/{self.project_id}: {self.tasks} tasks"]
        lines.append(f"  jobs: {states or 'none'}")
        if self.open_jobs:
            lines.append(f"  open: {', '.join(map(str, self.open_jobs))}")
        return tuple(lines)


def local_status(folder: RoundFolder) -> RoundStatus:
    """Where a round stands as its files tell."""
    why = "it is not pushed, so CVAT was not asked"
    return RoundStatus(round=folder.number, state=folder.state(), not_asked=why)


class Rounds(Document):
    """The rounds of a workspace, as their files tell."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    rounds: dict[int, str]
    """Last file by round."""

    def lines(self) -> tuple[str, ...]:
        """The rounds in words."""
        found = tuple(f"round {number:02d}: {state}" for number, state in self.rounds.items())
        return found or ("no round yet; `make train ROUND=1` begins the first",)


def local_rounds(home: Home) -> Rounds:
    """Every round of a workspace."""
    places = (home.root / "rounds").glob("[0-9]*")
    numbers = sorted(int(path.name) for path in places if path.name.isdigit() and path.is_dir())
    return Rounds(rounds={number: RoundFolder(home, number).state() for number in numbers})


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
