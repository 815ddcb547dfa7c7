"""CVAT's smaller resources (issues, webhooks, functions) as typed documents over plain requests.

Knows CVAT's paging; knows neither the SDK nor what a resource means.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from casebook.errors import RemoteError

_PAGE = 100
M = TypeVar("M", bound=BaseModel)


class Answer(BaseModel):
    """A document of CVAT's, of which only some fields are read."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Empty(Answer):
    """An answer nothing is read of."""


@runtime_checkable
class Rest(Protocol):
    """A CVAT server that answers plain requests.

    Raises `UnreachableError` when it does not answer, `AccessError` when it refuses the
    credentials, `RemoteError` when it refuses anything else.
    """

    def read(self, what: str, path: str) -> bytes:
        """The body of a GET, repeated when it may help; `what` names it in messages."""

    def send(self, what: str, method: str, path: str, body: object = None) -> bytes:
        """The answer to a change; never repeated, the caller looks before trying again."""


class _Page(Answer):
    next: str | None = None
    results: tuple[Any, ...]


def parsed(what: str, payload: bytes, kind: type[M]) -> M:
    """One document of CVAT's.

    Raises:
        RemoteError: it is not what CVAT answers.
    """
    try:
        return kind.model_validate_json(payload or b"{}")
    except ValidationError as problem:
        raise _unreadable(what, problem) from None


def listed(rest: Rest, what: str, path: str, kind: type[M]) -> tuple[M, ...]:
    """All documents of a paged list.

    Args:
        rest: The server.
        what: Names the list in messages.
        path: Of the list, with its filters as a query.
        kind: What each is read as.

    Raises:
        RemoteError: the list is not what CVAT answers.
    """
    found: list[M] = []
    joint = "&" if "?" in path else "?"
    number = 1
    while True:
        payload = rest.read(what, f"{path}{joint}page_size={_PAGE}&page={number}")
        page = parsed(what, payload, _Page)
        found.extend(_each(what, page.results, kind))
        if page.next is None:
            return tuple(found)
        number += 1


def unpaged(what: str, payload: bytes, kind: type[M]) -> tuple[M, ...]:
    """All documents of a list CVAT answers whole.

    Raises:
        RemoteError: the list is not what CVAT answers.
    """
    try:
        return tuple(TypeAdapter(list[kind]).validate_json(payload))  # type: ignore[valid-type]
    except ValidationError as problem:
        raise _unreadable(what, problem) from None


def _each(what: str, entries: Sequence[Any], kind: type[M]) -> list[M]:
    try:
        return [kind.model_validate(entry) for entry in entries]
    except ValidationError as problem:
        raise _unreadable(what, problem) from None


def _unreadable(what: str, problem: ValidationError) -> RemoteError:
    error = problem.errors()[0]
    where = ".".join(map(str, error["loc"])) or "answer"
    return RemoteError(
        f"{what}: CVAT's answer cannot be read ({where}: {error['msg']}); check that "
        "ANGIOLOOP_CVAT_URL is CVAT's own address, and its version with `cvatsync doctor`"
    )
