"""The edge to Nuclio: an event in, a response out, and nothing else ever.

Nuclio answers an exception with its traceback, takes a bare list for a batch and drops header
values that are not text; so every way out of here is a JSON response with a reason.
Source: nuclio/nuclio, pkg/processor/runtime/python/py.
"""

import traceback
from typing import Any, Protocol

from nuclio_sdk import Context, Event, Response

from casebook.errors import AngioloopError
from casebook.handler import Kind, Reply, crashed, refused
from serverless.live import LiveModel

MAX_TRACE = 4000
"""Characters of a traceback that are logged: one long line breaks Nuclio's log stream."""


class Logger(Protocol):
    """Nuclio's structured logger."""

    def info_with(self, message: str, **fields: object) -> None:
        """Write a line with fields."""

    def error_with(self, message: str, **fields: object) -> None:
        """Write a line with fields, as an error."""


class Function:
    """One deployed function: a kind of request and the model in use (`live`)."""

    def __init__(self, kind: Kind, live: LiveModel[Any]) -> None:
        self._kind = kind
        self.live = live

    def answer(self, context: Context, event: Event) -> Response:
        """The response to an event, whatever is in it."""
        model_id = "none"
        try:
            handler = self.live.handler()
            model_id = handler.model_id
            reply = handler.reply(self._kind, event.body)
        except AngioloopError as problem:
            reply = refused(problem)
        except Exception:  # noqa: BLE001 - one of the two edges: Nuclio would send the traceback
            trace = traceback.format_exc()[-MAX_TRACE:]
            context.logger.error_with("bug", function=self._kind, trace=trace)
            reply = crashed(model_id)
        context.logger.info_with("request", **reply.log)
        return response_of(reply)


def response_of(reply: Reply) -> Any:
    """A reply as Nuclio takes it: always JSON, headers as text."""
    return Response(
        headers=reply.headers,
        body=reply.body,
        content_type="application/json",
        status_code=reply.status,
    )
