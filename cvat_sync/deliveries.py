"""CVAT's webhook deliveries: signed, fresh, of a project of ours, each taken once.

A delivery is only ever a reason to ask CVAT how things stand, so what it says is never believed
beyond its project and task. Knows neither HTTP nor what follows.
Source: cvat-ai/cvat, cvat/apps/webhooks/signals.py.
"""

import hashlib
import hmac
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import ValidationError

from casebook.config import environment
from casebook.documents import Document, append_line, read_lines, sha256_of, write_bytes
from casebook.errors import AngioloopError, ConfigError, DataError
from cvat_sync.rest import Answer
from cvat_sync.settings import PAGE

SECRET_VARIABLE = "ANGIOLOOP_WEBHOOK_SECRET"  # noqa: S105 - a variable's name
MIN_SECRET_CHARS = 16
MAX_BODY_BYTES = 256 * 1024
"""A delivery has about 3 kB."""
CLOCK_SKEW = timedelta(minutes=5)
"""How far CVAT's clock may be ahead of ours."""
_SCHEME = "sha256="

Outcome = Literal["accepted", "duplicate", "pong", "not ours"]


class SignatureError(AngioloopError):
    """A delivery is not signed with our secret."""

    exit_code: ClassVar[int] = 9
    http_status: ClassVar[int] = 401


class StrangerError(AngioloopError):
    """A delivery is of a project nobody here pushed to."""

    exit_code: ClassVar[int] = 9
    http_status: ClassVar[int] = 403


class StaleDeliveryError(AngioloopError):
    """A delivery is about a change of long ago, or of the future."""

    exit_code: ClassVar[int] = 6
    http_status: ClassVar[int] = 409


class DeliveredJob(Answer):
    """The job a delivery is about."""

    id: int
    task_id: int
    project_id: int | None
    updated_date: datetime


class Delivery(Answer):
    """What CVAT sends."""

    event: str
    job: DeliveredJob | None = None


class _Seen(Document):
    """A delivery that was taken."""

    digest: str
    job_id: int
    updated: datetime


def read_secret() -> str:
    """The secret shared with CVAT's webhook, from the environment.

    Raises:
        ConfigError: it is not set, or too short to be one.
    """
    secret = environment(SECRET_VARIABLE, "secret of CVAT's webhook", PAGE)
    if len(secret) < MIN_SECRET_CHARS:
        raise ConfigError(
            f"{SECRET_VARIABLE} has {len(secret)} characters; expected at least "
            f"{MIN_SECRET_CHARS}, for instance from `openssl rand -hex 32`"
        )
    return secret


def sign(secret: str, body: bytes) -> str:
    """The `X-Signature-256` of a body."""
    return _SCHEME + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def check_signature(secret: str, body: bytes, given: str | None) -> None:
    """Refuse a body that is not signed with our secret, in constant time.

    Raises:
        SignatureError: there is no signature, or it is another one.
    """
    if given is None:
        raise SignatureError(
            "the delivery has no X-Signature-256; give the webhook in CVAT the secret of "
            f"{SECRET_VARIABLE}"
        )
    expected = sign(secret, body)
    if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise SignatureError(
            "the delivery's X-Signature-256 is not made with our secret; give the webhook in CVAT "
            f"the secret of {SECRET_VARIABLE}"
        )


def parse(body: bytes) -> Delivery:
    """A signed body as a delivery.

    Raises:
        DataError: it is not one.
    """
    try:
        return Delivery.model_validate_json(body)
    except ValidationError as problem:
        error = problem.errors()[0]
        where = ".".join(map(str, error["loc"])) or "body"
        raise DataError(
            f"the delivery is not CVAT's ({where}: {error['msg']}); expected event and job"
        ) from None


class Inbox:
    """The deliveries taken so far, on disk; the tasks of ours by project come from `ours`."""

    def __init__(
        self,
        journal: Path,
        secret: str,
        ours: Callable[[], dict[int, frozenset[int]]],
        *,
        window_s: float,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._journal, self._secret, self._ours = journal, secret, ours
        self._window, self._clock = timedelta(seconds=window_s), clock
        self._lock = threading.Lock()
        kept = [seen for seen in read_lines(journal, _Seen) if not self._is_old(seen.updated)]
        lines = "".join(f"{seen.model_dump_json()}\n" for seen in kept)
        write_bytes(journal, lines.encode())
        self._seen = {seen.digest: seen for seen in kept}

    def _is_old(self, updated: datetime) -> bool:
        return self._clock() - updated > self._window

    def take(self, body: bytes, signature: str | None) -> Outcome:
        """Take a delivery, once.

        Raises:
            SignatureError: it is not signed with our secret.
            DataError: it is not a delivery of CVAT's.
            StrangerError: it is of another project.
            StaleDeliveryError: it is about a change outside the replay window.
        """
        check_signature(self._secret, body, signature)
        delivery = parse(body)
        if delivery.event == "ping":
            return "pong"
        job = delivery.job
        if delivery.event != "update:job" or job is None:
            return "not ours"
        tasks = self._ours().get(job.project_id or 0)
        if tasks is None:
            raise StrangerError(
                f"the delivery is of project {job.project_id}, to which no round was pushed; "
                "remove that project's webhook in CVAT"
            )
        self._check_fresh(job)
        if job.task_id not in tasks:
            return "not ours"
        with self._lock:
            digest = sha256_of(body)
            if digest in self._seen:
                return "duplicate"
            seen = _Seen(digest=digest, job_id=job.id, updated=job.updated_date)
            append_line(self._journal, seen)
            self._seen = {
                key: other for key, other in self._seen.items() if not self._is_old(other.updated)
            }
            self._seen[digest] = seen
        return "accepted"

    def _check_fresh(self, job: DeliveredJob) -> None:
        if job.updated_date.tzinfo is None:
            raise DataError("the delivery's updated_date has no time zone; expected CVAT's own")
        if self._is_old(job.updated_date) or job.updated_date - self._clock() > CLOCK_SKEW:
            raise StaleDeliveryError(
                f"the delivery is about a change of {job.updated_date:%Y-%m-%d %H:%M:%S %Z}; "
                f"expected one of the last {self._window.total_seconds():.0f} s. If it is recent, "
                "set the clocks of both machines"
            )
