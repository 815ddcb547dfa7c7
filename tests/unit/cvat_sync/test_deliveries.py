"""Deliveries of a webhook: what is taken, what is refused and how it is said."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from casebook.errors import AngioloopError, ConfigError, DataError
from cvat_sync.deliveries import (
    SECRET_VARIABLE,
    Inbox,
    SignatureError,
    StaleDeliveryError,
    StrangerError,
    read_secret,
    sign,
)

SECRET = "a-secret-long-enough"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "deliveries.jsonl"


def inbox(journal: Path, clock: Clock) -> Inbox:
    return Inbox(journal, SECRET, lambda: {4: frozenset({7})}, window_s=60.0, clock=clock)


def body(
    *, updated: datetime | str = NOW, project: int = 4, task: int = 7, event: str = "update:job"
) -> bytes:
    stamp = updated if isinstance(updated, str) else updated.isoformat()
    job = {"id": 9, "task_id": task, "project_id": project, "updated_date": stamp, "state": "new"}
    return json.dumps({"event": event, "job": job, "sender": None}).encode()


def test_a_delivery_is_taken_once_even_across_a_restart(journal: Path, clock: Clock) -> None:
    first = inbox(journal, clock)
    assert first.take(body(), sign(SECRET, body())) == "accepted"
    assert first.take(body(), sign(SECRET, body())) == "duplicate"
    assert inbox(journal, clock).take(body(), sign(SECRET, body())) == "duplicate"


def test_deliveries_out_of_order_are_taken(journal: Path, clock: Clock) -> None:
    box = inbox(journal, clock)
    newer, older = body(), body(updated=NOW - timedelta(seconds=30))
    assert box.take(newer, sign(SECRET, newer)) == "accepted"
    assert box.take(older, sign(SECRET, older)) == "accepted"


def test_what_is_too_old_to_be_taken_again_is_forgotten(journal: Path, clock: Clock) -> None:
    box = inbox(journal, clock)
    box.take(body(), sign(SECRET, body()))
    clock.now = NOW + timedelta(minutes=5)
    inbox(journal, clock)
    assert journal.read_bytes() == b""
    with pytest.raises(StaleDeliveryError):
        box.take(body(), sign(SECRET, body()))


def test_a_torn_last_line_is_no_obstacle(journal: Path, clock: Clock) -> None:
    inbox(journal, clock).take(body(), sign(SECRET, body()))
    with journal.open("ab") as stream:
        stream.write(b'{"digest": "ab')
    assert inbox(journal, clock).take(body(), sign(SECRET, body())) == "duplicate"


@pytest.mark.parametrize(
    ("payload", "signature", "error", "status", "says"),
    [
        pytest.param(body(), None, SignatureError, 401, "no X-Signature-256", id="unsigned"),
        pytest.param(
            body(), sign("another-secret-word", body()), SignatureError, 401, "our secret", id="key"
        ),
        pytest.param(body(), "sha256=ä", SignatureError, 401, "our secret", id="not ascii"),
        pytest.param(
            body(),
            sign(SECRET, body(task=8)),
            SignatureError,
            401,
            "our secret",
            id="another body's signature",
        ),
        pytest.param(b"[1", None, SignatureError, 401, "no X-Signature", id="unsigned nonsense"),
        pytest.param(b"[1", sign(SECRET, b"[1"), DataError, 422, "not CVAT's", id="not JSON"),
        pytest.param(b"{}", sign(SECRET, b"{}"), DataError, 422, "event", id="no event"),
        pytest.param(
            body(project=5), sign(SECRET, body(project=5)), StrangerError, 403, "project 5", id="5"
        ),
        pytest.param(
            body(updated=NOW - timedelta(seconds=61)),
            sign(SECRET, body(updated=NOW - timedelta(seconds=61))),
            StaleDeliveryError,
            409,
            "last 60 s",
            id="old",
        ),
        pytest.param(
            body(updated=NOW + timedelta(hours=1)),
            sign(SECRET, body(updated=NOW + timedelta(hours=1))),
            StaleDeliveryError,
            409,
            "set the clocks",
            id="future",
        ),
        pytest.param(
            body(updated="2026-05-04T12:00:00"),
            sign(SECRET, body(updated="2026-05-04T12:00:00")),
            DataError,
            422,
            "no time zone",
            id="no zone",
        ),
    ],
)
def test_a_bad_delivery_is_refused_with_its_reason_and_leaves_no_trace(
    journal: Path,
    clock: Clock,
    payload: bytes,
    signature: str | None,
    error: type[AngioloopError],
    status: int,
    says: str,
) -> None:
    box = inbox(journal, clock)
    with pytest.raises(error, match=says) as caught:
        box.take(payload, signature)
    assert caught.value.http_status == status
    assert SECRET not in str(caught.value)
    assert journal.read_bytes() == b""


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        pytest.param(body(task=8), "not ours", id="another task of the project"),
        pytest.param(body(event="create:job"), "not ours", id="another event"),
        pytest.param(b'{"event": "ping", "webhook": {"id": 1}}', "pong", id="ping"),
    ],
)
def test_what_is_none_of_our_business_is_answered_and_forgotten(
    journal: Path, clock: Clock, payload: bytes, outcome: str
) -> None:
    assert inbox(journal, clock).take(payload, sign(SECRET, payload)) == outcome
    assert journal.read_bytes() == b""


def test_a_short_or_missing_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="is not set"):
        read_secret()
    monkeypatch.setenv(SECRET_VARIABLE, "short")
    with pytest.raises(ConfigError, match="has 5 characters; expected at least 16") as caught:
        read_secret()
    assert "short" not in str(caught.value)
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    assert read_secret() == SECRET
