"""Nuclio function: CVAT's detector. The work is in casebook/handler.py."""

from nuclio_sdk import Context, Event, Response

from serverless.models import open_function


def init_context(context: Context) -> None:
    """Load the model in use; called once by Nuclio before the first event."""
    context.user_data.function = open_function("detector", context.logger)


def handler(context: Context, event: Event) -> Response:
    """Answer one request of CVAT."""
    return context.user_data.function.answer(context, event)
