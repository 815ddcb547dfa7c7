"""The watch's web service: statuses, the body limit, its health."""

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from casebook.errors import UnreachableError
from casebook.home import Home
from cvat_sync.deliveries import MAX_BODY_BYTES, Inbox, sign
from cvat_sync.receiver import create_app
from cvat_sync.settings import ExchangeConfig
from cvat_sync.watch import Place, Watch

SECRET = "a-secret-long-enough"


def nobody() -> None:
    raise UnreachableError("nobody is asked here")


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(Place(Home(tmp_path), tmp_path, ExchangeConfig()), nobody)  # type: ignore[arg-type]


def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://watch") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asked())


@pytest.fixture
def app(watch: Watch, tmp_path: Path) -> FastAPI:
    inbox = Inbox(tmp_path / "seen.jsonl", SECRET, lambda: {4: frozenset({7})}, window_s=60.0)
    return create_app(watch, inbox)


def delivery() -> bytes:
    stamp = datetime.now(UTC).isoformat()
    job = {"id": 9, "task_id": 7, "project_id": 4, "updated_date": stamp}
    return json.dumps({"event": "update:job", "job": job}).encode()


def post(app: FastAPI, body: bytes, signature: str | None) -> tuple[int, dict[str, str]]:
    headers = {} if signature is None else {"X-Signature-256": signature}
    answer = ask(app, "POST", "/cvat", content=body, headers=headers)
    return answer.status_code, answer.json()


def test_a_delivery_wakes_the_watch_once(app: FastAPI, watch: Watch) -> None:
    body = delivery()
    assert post(app, body, sign(SECRET, body)) == (202, {"outcome": "accepted"})
    assert watch._nudged.is_set()
    watch._nudged.clear()
    assert post(app, body, sign(SECRET, body)) == (200, {"outcome": "duplicate"})
    assert not watch._nudged.is_set()


def test_refusals_carry_their_status_and_reason(app: FastAPI, watch: Watch) -> None:
    status, answer = post(app, delivery(), "sha256=00")
    assert status == 401
    assert "ANGIOLOOP_WEBHOOK_SECRET" in answer["error"]
    status, answer = post(app, b"x" * (MAX_BODY_BYTES + 1), None)
    assert status == 413
    assert "bytes" in answer["error"]
    assert not watch._nudged.is_set()


def test_nothing_else_is_served(app: FastAPI) -> None:
    for path in ("/", "/docs", "/openapi.json"):
        assert ask(app, "GET", path).status_code == 404
    assert ask(app, "GET", "/cvat").status_code == 405


def test_health_is_the_threads_and_tells_the_sight(watch: Watch) -> None:
    app = create_app(watch, None)
    dead = ask(app, "GET", "/healthz")
    assert (dead.status_code, dead.json()["is_well"]) == (503, False)
    assert ask(app, "POST", "/cvat").status_code == 404, "a polling watch takes none"
    watch.start()
    alive = ask(app, "GET", "/healthz")
    assert (alive.status_code, alive.json()["sight"]["stage"]) == (200, "idle")
    watch.stop()
