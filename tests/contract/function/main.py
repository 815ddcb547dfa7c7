"""A function over the model without weights, written as those of serverless/ are."""

import os
import threading
import time
from pathlib import Path

from nuclio_sdk import Context, Event, Response

from casebook.handler import Handler
from casebook.labels import Label, LabelSet
from serverless.door import Function
from serverless.live import LiveModel
from tests.fakes.threshold_model import ThresholdSegmenter, ThresholdTracker

LABELS = LabelSet(name="test", labels=(Label(name="pRCA", role="segment"),))


def init_context(context: Context) -> None:
    def load(model_id: str | None) -> Handler:
        return Handler(ThresholdSegmenter("threshold"), LABELS, tracker=ThresholdTracker())

    live = LiveModel(lambda: None, load, lambda message, fields: None)
    kind = os.environ.get("TEST_FUNCTION_KIND", "interactor")
    context.user_data.function = Function(kind, live)
    context.user_data.events = 0


def handler(context: Context, event: Event) -> Response:
    context.user_data.events += 1
    if event.path == "/sleep":
        time.sleep(float(event.fields["s"]))
        return context.Response(body=threading.current_thread().name)
    if event.path == "/wait":  # until the test says so, by a file
        while not Path(event.fields["for"]).exists():
            time.sleep(0.01)
        return context.Response(body="waited")
    if event.path == "/events":
        return {"events": context.user_data.events, "body": type(event.body).__name__}
    if event.path == "/raise":
        raise ValueError("a bug outside every edge")
    if event.path == "/list":
        return [{"label": "first"}, {"label": "second"}]
    if event.path == "/headers":
        return context.Response(headers={"X-Text": "1", "X-Number": 2}, body=b"\x00\xff")
    if event.path == "/nan":
        return {"value": float("nan")}
    return context.user_data.function.answer(context, event)
