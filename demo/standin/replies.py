"""How the stand-in answers: JSON, pages, filters and errors in the shape cvat-sdk parses.

Knows nothing of the records inside.
"""

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic_core import from_json

from demo.standin.store import Record

PAGE_SIZE = 10
"""CVAT's default; a client that reads only the first page sees ten of its tasks."""

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class RefusalError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = {"detail": body} if isinstance(body, str) else body


def reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return Response(
        json.dumps(body, separators=(",", ":")), status, headers, media_type="application/json"
    )


def empty(status: int = 204, headers: Mapping[str, str] | None = None) -> Response:
    """An answer without a body."""
    return Response(b"", status, headers)


def base_url(request: Request) -> str:
    """The address the client used, without a trailing slash."""
    return str(request.base_url).rstrip("/")


def page(request: Request, records: list[Record], fill: Callable[[Record], Record]) -> Response:
    """One page of a list as CVAT answers it; `fill` turns the page's rows into documents."""
    query = request.query_params
    try:
        number, size = int(query.get("page", 1)), int(query.get("page_size", PAGE_SIZE))
    except ValueError:
        raise RefusalError(404, "Invalid page.") from None
    last = max(1, -(-len(records) // size)) if size > 0 else 0
    if not 1 <= number <= last:
        raise RefusalError(404, "Invalid page.")

    def link(to: int) -> str:
        return str(request.url.include_query_params(page=to))

    chosen = records[(number - 1) * size : number * size]
    return reply(
        {
            "count": len(records),
            "next": link(number + 1) if number < last else None,
            "previous": link(number - 1) if number > 1 else None,
            "results": [fill(record) for record in chosen],
        }
    )


def _matches(rule: Any, record: Record) -> Any:
    """Evaluate one JSON-logic node against a record."""
    if not isinstance(rule, dict):
        return rule
    ((name, operand),) = rule.items()
    if name == "var":
        return record.get(str(operand))
    operands = operand if isinstance(operand, list) else [operand]
    if name == "and":
        return all(_matches(part, record) for part in operands)
    if name == "or":
        return any(_matches(part, record) for part in operands)
    if name == "!":
        return not _matches(operands[0], record)
    left, *rest = (_matches(part, record) for part in operands)
    if name == "in":
        return left is not None and left in rest[0]
    if name in _COMPARE:
        return left is not None and all(_COMPARE[name](left, right) for right in rest)
    raise RefusalError(400, f"filter: unsupported operator {name!r}")


def select(request: Request, records: list[Record], exact: Mapping[str, str]) -> list[Record]:
    """The records a list request asks for: simple filters, `filter`, `search` and `sort`.

    `exact` names the simple filters: query parameter to record field.
    """
    query = request.query_params
    for parameter, field in exact.items():
        if parameter in query:
            wanted = query[parameter]
            records = [record for record in records if str(record.get(field)) == wanted]
    if query.get("filter"):
        try:
            rule = json.loads(query["filter"])
        except json.JSONDecodeError:
            raise RefusalError(400, "filter: not valid JSON") from None
        aliased = {parameter: field for parameter, field in exact.items() if parameter != field}
        records = [
            record
            for record in records
            if _matches(rule, {**record, **{k: record.get(v) for k, v in aliased.items()}})
        ]
    if query.get("search"):
        needle = query["search"].lower()
        records = [record for record in records if needle in str(record.get("name", "")).lower()]
    for key in reversed([part for part in query.get("sort", "-id").split(",") if part]):
        field = key.lstrip("-")
        field = {"updated_date": "updated", "created_date": "created"}.get(field, field)
        set_ones = [record for record in records if record.get(field) is not None]
        unset = [record for record in records if record.get(field) is None]
        descending = key.startswith("-")
        set_ones.sort(key=operator.itemgetter(field), reverse=descending)
        records = [*set_ones, *unset] if descending else [*unset, *set_ones]
    return records


async def json_body(request: Request) -> Record:
    """The request's JSON object."""
    raw = await request.body()
    try:
        body = from_json(raw) if raw else {}
    except ValueError as error:
        raise RefusalError(400, f"JSON parse error - {error}") from None
    if not isinstance(body, dict):
        raise RefusalError(400, {"non_field_errors": ["Invalid data. Expected a dictionary."]})
    return body
