"""`$ANGIOLOOP_HOME`: where everything lies. Files are the state; this module names them.

cases/            catalogue.sqlite + de-identified lossless frames
private/          key, relink.csv (pseudonym ↔ patient, mode 0600); never leaves
rounds/NN/        one folder a round (casebook/rounds.py)
models/<id>/      adapter + card; models/promoted and models/released/current are the pointers
descriptors/      what models see in cases, for the choice of the next ones; may be removed
queue/            the embedded broker and the worker's lock
audit.jsonl       who pushed, promoted, rolled back, and why
"""

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from casebook.documents import Document, append_line, read_document, write_document
from casebook.errors import BusyError, DataError, StateError


class AuditEntry(Document):
    """Who did what, and why."""

    at: datetime
    who: str
    action: str
    subject: str
    reason: str = ""


@dataclass(frozen=True)
class Home:
    """The places under one workspace."""

    root: Path

    @classmethod
    def resolve(cls, given: str | Path | None = None) -> "Home":
        """The workspace given, else `$ANGIOLOOP_HOME`, else ./workspace."""
        return cls(Path(given or os.environ.get("ANGIOLOOP_HOME") or "workspace").resolve())

    @property
    def cases(self) -> Path:
        """De-identified frames and the catalogue."""
        return self.root / "cases"

    @property
    def catalogue(self) -> Path:
        """The catalogue's SQLite file."""
        return self.cases / "catalogue.sqlite"

    @property
    def private(self) -> Path:
        """Key and re-link table: never leaves."""
        return self.root / "private"

    @property
    def models(self) -> Path:
        """The model registry."""
        return self.root / "models"

    @property
    def descriptors(self) -> Path:
        """What models see in cases, for the choice of the next ones; a file a case and model."""
        return self.root / "descriptors"

    @property
    def queue(self) -> Path:
        """The embedded broker's folder."""
        return self.root / "queue"

    @property
    def broker_url(self) -> str:
        """`$ANGIOLOOP_BROKER`, else the embedded SQLite transport."""
        embedded = f"sqla+sqlite:///{self.queue / 'broker.sqlite'}"
        return os.environ.get("ANGIOLOOP_BROKER") or embedded

    @property
    def embedded(self) -> bool:
        """Whether the queue is the embedded one, which needs a worker started by us."""
        return self.broker_url.startswith("sqla+")

    @property
    def worker_lock(self) -> Path:
        """Held by the embedded worker as long as it lives."""
        return self.queue / "worker.lock"

    def round_folder(self, number: int) -> Path:
        """Folder of a round, `rounds/02`."""
        return self.root / "rounds" / f"{number:02d}"

    def audit(self, action: str, subject: str, reason: str = "") -> None:
        """Add a line to audit.jsonl."""
        entry = AuditEntry(
            at=datetime.now(UTC), who=_user(), action=action, subject=subject, reason=reason
        )
        append_line(self.root / "audit.jsonl", entry)


def _user() -> str:
    return os.environ.get("ANGIOLOOP_USER") or _login()


def _login() -> str:
    try:
        return getpass.getuser()
    except OSError:  # no such user in the password database, as in many containers
        return f"uid {os.getuid()}"


class LockOwner(Document):
    """Who holds a lock, for the message to who comes second."""

    who: str
    host: str
    pid: int
    since: datetime

    def __str__(self) -> str:
        """For instance `kim on lab-3, process 4711, since 2026-01-01 10:05 (12 min)`."""
        minutes = (datetime.now(UTC) - self.since).total_seconds() / 60
        return (
            f"{self.who} on {self.host}, process {self.pid}, since "
            f"{self.since:%Y-%m-%d %H:%M} UTC ({minutes:.0f} min)"
        )


def _owner_path(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}.owner")


def _owner(lock: Path) -> str:
    try:
        return f"by {read_document(_owner_path(lock), LockOwner)}"
    except (StateError, DataError):  # this moment taken or freed
        return f"lock {lock.name}"


@contextmanager
def locked(path: Path, what: str, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file; the system frees it when the holder dies.

    Raises:
        BusyError: somebody else holds it; says who and since when.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout_s)
    except Timeout:
        raise BusyError(
            f"{what} is already running ({_owner(path)}); wait for it or stop it"
        ) from None
    owner = LockOwner(
        who=_user(), host=socket.gethostname(), pid=os.getpid(), since=datetime.now(UTC)
    )
    try:
        write_document(_owner_path(path), owner)
        yield
    finally:
        _owner_path(path).unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a living process holds this lock."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
