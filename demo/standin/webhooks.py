"""Webhooks: kept with the project, signed and sent when a job changes, with CVAT's habits.

Any save of a job or its annotations is an `update:job`; nothing in a delivery numbers or dates it
but the job's own updated date; a receiver that fails or is away is noted and not tried again.
Source: cvat-ai/cvat, cvat/apps/webhooks/signals.py.
"""

import hashlib
import hmac
import json
import queue
import random
import threading
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import APIRouter, Request, Response

from demo.standin.accounts import basic_user
from demo.standin.replies import RefusalError, base_url, empty, json_body, page, reply, select
from demo.standin.store import Record, Store, now

SCHEMA = """
CREATE TABLE IF NOT EXISTS webhooks (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER NOT NULL REFERENCES projects ON DELETE CASCADE,
  target_url TEXT NOT NULL, description TEXT NOT NULL, secret TEXT NOT NULL, events TEXT NOT NULL,
  is_active INTEGER NOT NULL, enable_ssl INTEGER NOT NULL, owner_id INTEGER,
  created TEXT NOT NULL, updated TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  webhook_id INTEGER NOT NULL REFERENCES webhooks ON DELETE CASCADE, event TEXT NOT NULL,
  status INTEGER NOT NULL, redelivery INTEGER NOT NULL, body TEXT NOT NULL,
  response TEXT NOT NULL, created TEXT NOT NULL);
"""
EVENTS = frozenset(["update:job", "create:job", "delete:job", "update:task", "create:issue"])
_TIMEOUT_S = 10.0
_HELD_S = 0.3
_ANSWER_CHARS = 1024 * 1024


@dataclass(frozen=True)
class _Delivery:
    webhook: Record
    body: bytes
    redelivery: bool = False


class Webhooks:
    """One thread that sends what is queued; when disordered, some twice and some too late."""

    def __init__(self, store: Store, disorder: float = 0.0, seed: int = 0) -> None:
        self._store = store
        with store.transaction():
            for statement in filter(str.strip, SCHEMA.split(";")):
                store.run(statement)
        self._disorder, self._random = disorder, random.Random(seed)  # noqa: S311 - no secret
        self._queue: queue.Queue[_Delivery | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="standin-webhooks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is queued, then stop."""
        self._queue.put(None)
        self._thread.join(timeout=_TIMEOUT_S)

    def job_updated(self, job: Record, before: Record) -> None:
        """Queue `update:job` for whoever asked for it; `before` holds the fields that changed."""
        for webhook in self._store.rows(
            "SELECT * FROM webhooks WHERE project_id = ? AND is_active = 1", job["project_id"]
        ):
            if "update:job" in json.loads(webhook["events"]):
                body = {"event": "update:job", "job": job, "sender": None}
                body |= {"before_update": before, "webhook_id": webhook["id"]}
                self._queue.put(_Delivery(webhook, json.dumps(body).encode()))

    def redeliver(self, webhook: Record, body: str) -> None:
        """Queue an old delivery again, as it was."""
        self._queue.put(_Delivery(webhook, body.encode(), redelivery=True))

    def _work(self) -> None:
        held: list[_Delivery] = []
        while True:
            try:
                found = self._queue.get(timeout=_HELD_S if held else None)
            except queue.Empty:
                found = held.pop(0)
                self.send(found)
                continue
            if found is None:
                for late in held:
                    self.send(late)
                return
            if self._random.random() < self._disorder:
                held.append(found)
                continue
            self.send(found)
            if self._random.random() < self._disorder:
                self.send(found)

    def send(self, delivery: _Delivery) -> int:
        """Send now and note what came of it; the id of the note."""
        headers = {"Content-Type": "application/json"}
        secret = str(delivery.webhook["secret"])
        if secret:
            mark = hmac.new(secret.encode(), delivery.body, hashlib.sha256).hexdigest()
            headers["X-Signature-256"] = f"sha256={mark}"
        said = ""
        try:
            answer = httpx.post(
                delivery.webhook["target_url"],
                content=delivery.body,
                headers=headers,
                timeout=_TIMEOUT_S,
                trust_env=False,
            )
            status, said = answer.status_code, answer.text[:_ANSWER_CHARS]
        except httpx.TimeoutException:
            status = 504
        except httpx.HTTPError:
            status = 502
        return self._store.run(
            "INSERT INTO deliveries (webhook_id, event, status, redelivery, body, response,"
            " created) SELECT id, ?, ?, ?, ?, ?, ? FROM webhooks WHERE id = ?",
            json.loads(delivery.body)["event"],
            status,
            int(delivery.redelivery),
            delivery.body.decode(),
            said,
            now(),
            delivery.webhook["id"],
        )


def routes(store: Store, webhooks: Webhooks) -> APIRouter:
    """Registering, listing, changing, pinging and deleting webhooks; their deliveries."""
    router = APIRouter()

    def find(webhook_id: int) -> Record:
        found = store.row("SELECT * FROM webhooks WHERE id = ?", webhook_id)
        if found is None:
            raise RefusalError(404, "Not found.")
        return found

    def fill(request: Request, webhook: Record) -> Record:
        last = store.row(
            "SELECT status, created FROM deliveries WHERE webhook_id = ? ORDER BY id DESC LIMIT 1",
            webhook["id"],
        )
        return {
            "id": webhook["id"],
            "url": f"{base_url(request)}/api/webhooks/{webhook['id']}",
            "target_url": webhook["target_url"],
            "description": webhook["description"],
            "type": "project",
            "content_type": "application/json",
            "is_active": bool(webhook["is_active"]),
            "enable_ssl": bool(webhook["enable_ssl"]),
            "created_date": webhook["created"],
            "updated_date": webhook["updated"],
            "owner": basic_user(store, webhook["owner_id"]),
            "project_id": webhook["project_id"],
            "organization": None,
            "events": json.loads(webhook["events"]),
            "last_status": last["status"] if last else 0,
            "last_delivery_date": last["created"] if last else None,
        }

    def fill_delivery(found: Record) -> Record:
        return {
            "id": found["id"],
            "webhook_id": found["webhook_id"],
            "event": found["event"],
            "status_code": found["status"],
            "redelivery": bool(found["redelivery"]),
            "created_date": found["created"],
            "updated_date": found["created"],
            "changed_fields": ",".join(json.loads(found["body"]).get("before_update", {})),
            "request": json.loads(found["body"]),
            "response": found["response"],
        }

    def checked(body: Record, old: Record | None = None) -> dict[str, Any]:
        given = {**(old or {}), **body}
        if not str(given.get("target_url", "")).startswith(("http://", "https://")):
            raise RefusalError(400, {"target_url": ["Enter a valid URL."]})
        events = body.get("events", json.loads(old["events"]) if old else [])
        if not events or not EVENTS.issuperset(events):
            raise RefusalError(400, {"events": ["Invalid events list for project webhook"]})
        return {**given, "events": json.dumps(sorted(events))}

    @router.post("/api/webhooks")
    async def create(request: Request) -> Response:
        body, stamp = await json_body(request), now()
        if body.get("type") != "project" or body.get("project_id") is None:
            raise RefusalError(400, {"non_field_errors": ["project_id is required"]})
        if store.row("SELECT id FROM projects WHERE id = ?", body["project_id"]) is None:
            raise RefusalError(400, {"project_id": ["Invalid pk - object does not exist."]})
        given = checked(body)
        webhook_id = store.run(
            "INSERT INTO webhooks (project_id, target_url, description, secret, events, is_active,"
            " enable_ssl, owner_id, created, updated) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            given["project_id"],
            given["target_url"],
            str(given.get("description", "")),
            str(given.get("secret", "")),
            given["events"],
            int(given.get("is_active", True)),
            int(given.get("enable_ssl", True)),
            request.state.user["id"],
            stamp,
            stamp,
        )
        return reply(fill(request, find(webhook_id)), 201)

    @router.get("/api/webhooks")
    def list_webhooks(request: Request) -> Response:
        exact = {"project_id": "project_id", "target_url": "target_url"}
        found = select(request, store.rows("SELECT * FROM webhooks"), exact)
        return page(request, found, lambda webhook: fill(request, webhook))

    @router.get("/api/webhooks/{webhook_id}")
    def one(webhook_id: int, request: Request) -> Response:
        return reply(fill(request, find(webhook_id)))

    @router.patch("/api/webhooks/{webhook_id}")
    async def change(webhook_id: int, request: Request) -> Response:
        given = checked(await json_body(request), find(webhook_id))
        store.run(
            "UPDATE webhooks SET target_url = ?, secret = ?, events = ?, is_active = ?,"
            " updated = ? WHERE id = ?",
            given["target_url"],
            given["secret"],
            given["events"],
            int(given["is_active"]),
            now(),
            webhook_id,
        )
        return reply(fill(request, find(webhook_id)))

    @router.delete("/api/webhooks/{webhook_id}")
    def remove(webhook_id: int) -> Response:
        find(webhook_id)
        store.run("DELETE FROM webhooks WHERE id = ?", webhook_id)
        return empty()

    @router.post("/api/webhooks/{webhook_id}/ping")
    def ping(webhook_id: int, request: Request) -> Response:
        webhook = find(webhook_id)
        body = {"event": "ping", "webhook": fill(request, webhook), "sender": None}
        number = webhooks.send(_Delivery(webhook, json.dumps(body).encode()))
        return reply(fill_delivery(store.rows("SELECT * FROM deliveries WHERE id = ?", number)[0]))

    @router.get("/api/webhooks/{webhook_id}/deliveries")
    def list_deliveries(webhook_id: int, request: Request) -> Response:
        query = "SELECT * FROM deliveries WHERE webhook_id = ?"
        found = select(request, store.rows(query, find(webhook_id)["id"]), {})
        return page(request, found, fill_delivery)

    @router.post("/api/webhooks/{webhook_id}/deliveries/{delivery_id}/redelivery")
    def redeliver(webhook_id: int, delivery_id: int) -> Response:
        query = "SELECT * FROM deliveries WHERE id = ? AND webhook_id = ?"
        found = store.row(query, delivery_id, webhook_id)
        if found is None:
            raise RefusalError(404, "Not found.")
        webhooks.redeliver(find(webhook_id), found["body"])
        return reply({}, 200)

    return router
