"""Serverless functions: what is offered, and calls forwarded to a running function over HTTP.

The request a function receives is CVAT 2.73's: the original file of the frame in base64 and the
prompt, no task, frame or user. The function's status passes through and its error body is
dropped; no connection is 503, no answer in time is 504.
"""

import base64
import hashlib
import hmac
import io
import json
import logging
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml
from fastapi import APIRouter, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from demo.standin.frames import original
from demo.standin.jobs import find_job
from demo.standin.labels import attributes_of, labels_of_task
from demo.standin.replies import RefusalError, json_body, reply
from demo.standin.store import Record, Store
from demo.standin.tasks import find_task

KINDS = ("interactor", "detector", "tracker")
_STATE_LIFETIME_S = 8 * 3600
_LOG = logging.getLogger("demo.standin")


@dataclass(frozen=True)
class Function:
    """A running function and what its metadata says of it."""

    name: str
    kind: str
    url: str
    annotations: dict[str, str] = field(default_factory=dict)
    description: str = ""

    @property
    def spec(self) -> list[Record]:
        """The labels the function answers with, as its metadata lists them."""
        found: list[Record] = json.loads(self.annotations.get("spec") or "[]")
        return found

    def document(self) -> Record:
        """The function as GET /api/lambda/functions lists it."""
        notes = self.annotations
        body: Record = {
            "id": self.name,
            "kind": self.kind,
            "labels_v2": self.spec,
            "description": self.description,
            "name": notes.get("name", self.name),
            "version": int(notes.get("version", "1")),
        }
        if self.kind == "interactor":
            body |= {
                "min_pos_points": int(notes.get("min_pos_points", "1")),
                "min_neg_points": int(notes.get("min_neg_points", "-1")),
                # Any text counts as true, also "false": CVAT applies bool() to the string.
                "startswith_box": bool(notes.get("startswith_box", "")),
                "startswith_box_optional": bool(notes.get("startswith_box_optional", "")),
                "help_message": notes.get("help_message", ""),
                "animated_gif": notes.get("animated_gif", ""),
            }
        if self.kind == "tracker":
            shapes = notes.get("supported_shape_types", "rectangle")
            body["supported_shape_types"] = [part.strip() for part in shapes.split(",")]
        return body


def function_from_yaml(path: Path, url: str) -> Function:
    """A function described by its own function.yaml, answering at a URL."""
    document = yaml.safe_load(path.read_text())
    metadata = document["metadata"]
    notes = {key: str(value) for key, value in metadata.get("annotations", {}).items()}
    description = str(document.get("spec", {}).get("description", ""))
    return Function(str(metadata["name"]), notes.get("type", ""), url, notes, description)


class Gateway:
    """Calls to running functions, and the signing of tracker states."""

    def __init__(self, functions: tuple[Function, ...], timeout_s: float, secret: bytes) -> None:
        self.functions = {function.name: function for function in functions}
        self._http = httpx.Client(timeout=timeout_s, trust_env=False)
        self._secret = secret

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def find(self, name: str) -> Function:
        """A function by its id."""
        if name not in self.functions:
            raise RefusalError(404, "Not found.")
        return self.functions[name]

    def call(self, function: Function, payload: Record) -> object:
        """The function's answer, parsed."""
        try:
            answer = self._http.post(function.url, json=payload)
        except httpx.TimeoutException:
            raise RefusalError(504, f"Function {function.name!r} did not answer in time") from None
        except httpx.TransportError as error:
            _LOG.warning("function %s: %s", function.name, error)
            raise RefusalError(503, f"Cannot connect to function {function.name!r}") from None
        if not answer.is_success:
            _LOG.warning("function %s answered %d", function.name, answer.status_code)
            raise RefusalError(answer.status_code, f"Function {function.name!r} failed")
        try:
            return answer.json()
        except ValueError:
            raise RefusalError(500, f"Function {function.name!r} did not answer JSON") from None

    def sign(self, state: object) -> str:
        """A tracker state as the browser carries it."""
        text = base64.urlsafe_b64encode(json.dumps(state).encode()).decode()
        stamped = f"{text}.{int(time.time())}"
        return f"{stamped}.{hmac.new(self._secret, stamped.encode(), hashlib.sha256).hexdigest()}"

    def unsign(self, signed: object) -> object:
        """A tracker state the browser sent back, if it is ours and younger than 8 hours."""
        if signed is None:
            return None
        stamped, _, mark = str(signed).rpartition(".")
        expected = hmac.new(self._secret, stamped.encode(), hashlib.sha256).hexdigest()
        text, _, stamp = stamped.partition(".")
        if not hmac.compare_digest(mark, expected):
            raise RefusalError(400, "Invalid or expired tracker state")
        if time.time() - int(stamp) > _STATE_LIFETIME_S:
            raise RefusalError(400, "Invalid or expired tracker state")
        return json.loads(base64.urlsafe_b64decode(text))


def _image(store: Store, task_id: int, body: Record) -> str:
    """The original file in base64; a re-encoded crop when a region of interest was drawn."""
    data = original(store, task_id, int(body["frame"]))
    roi = body.get("roi")
    if roi:
        with Image.open(io.BytesIO(data)) as image:
            left, top, right, bottom = (int(value) for value in roi)
            crop, buffer = image.crop((left, top, right, bottom)), io.BytesIO()
            crop.info = {}
            crop.save(buffer, "PNG")
        data = buffer.getvalue()
    return base64.b64encode(data).decode()


def build_payload(
    store: Store, gateway: Gateway, function: Function, task: Record, body: Record
) -> Record:
    """What the function receives for one call."""
    needed = ("frame", "pos_points", "neg_points") if function.kind == "interactor" else ("frame",)
    for name in needed:
        if body.get(name) is None:
            raise RefusalError(
                400,
                [f"`{function.name}` was called without mandatory argument: {name}"],
            )
    payload: Record = {"image": _image(store, task["id"], body)}
    if function.kind == "interactor":
        payload |= {
            "pos_points": body["pos_points"],
            "neg_points": body["neg_points"],
            "obj_bbox": body.get("obj_bbox"),
        }
        if body.get("text_prompts"):
            payload["text_prompts"] = body["text_prompts"]
    if body.get("threshold"):
        payload["threshold"] = body["threshold"]
    if function.kind == "tracker":
        payload["shapes"] = body.get("shapes") or []
        payload["states"] = [gateway.unsign(state) for state in body.get("states") or []]
    return payload


def filter_detections(store: Store, task: Record, body: Record, answer: object) -> list[Record]:
    """A detector's answer with labels mapped to the task's; unmapped ones are dropped."""
    if not isinstance(answer, list):
        raise RefusalError(500, "The detector did not answer a list")
    known = {label["name"]: label["id"] for label in labels_of_task(store, task)}
    mapping = body.get("mapping") or {name: {"name": name} for name in known}
    kept = []
    for item in answer:
        target = mapping.get(item["label"], {}).get("name")
        if target not in known:
            continue
        names = {attribute["name"] for attribute in attributes_of(store, known[target])}
        renamed = mapping[item["label"]].get("attributes") or {name: name for name in names}
        attributes = [
            {**attribute, "name": renamed[attribute["name"]]}
            for attribute in item.get("attributes", [])
            if renamed.get(attribute["name"]) in names
        ]
        kept.append({**item, "label": target, "attributes": attributes})
    return kept


def routes(store: Store, gateway: Gateway) -> APIRouter:
    """Listing functions and calling one."""
    router = APIRouter()

    def invoke(name: str, body: Record) -> Response:
        function = gateway.find(name)
        if body.get("job") is not None:
            job = find_job(store, int(body["job"]))
            task = find_task(store, job["task_id"])
            if not job["start_frame"] <= int(body.get("frame", -1)) <= job["stop_frame"]:
                raise RefusalError(400, ["The frame is outside the job range"])
        elif body.get("task") is not None:
            task = find_task(store, int(body["task"]))
        else:
            raise RefusalError(400, ["One of the fields is required: task, job"])
        answer = gateway.call(function, build_payload(store, gateway, function, task, body))
        if function.kind == "detector":
            return reply(filter_detections(store, task, body, answer))
        if function.kind == "tracker" and isinstance(answer, dict):
            answer["states"] = [gateway.sign(state) for state in answer.get("states") or []]
        return reply(answer)

    @router.get("/api/lambda/functions")
    def list_functions() -> Response:
        return reply([function.document() for function in gateway.functions.values()])

    @router.get("/api/lambda/functions/{name}")
    def one_function(name: str) -> Response:
        return reply(gateway.find(name).document())

    @router.post("/api/lambda/functions/{name}")
    async def call_function(name: str, request: Request) -> Response:
        body = await json_body(request)
        return await run_in_threadpool(invoke, name, body)

    return router


def new_secret(data_dir: Path) -> bytes:
    """The key that signs tracker states, kept with the data so that states outlive a restart."""
    path = data_dir / "state-key.hex"
    if not path.exists():
        path.touch(mode=0o600)
        path.write_text(secrets.token_hex(32))
    return bytes.fromhex(path.read_text())
