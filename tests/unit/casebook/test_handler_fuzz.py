"""Broken requests of every kind of function, in process: a reason comes back, and nothing stays."""

import json
import random
from typing import Any

import pytest

from casebook import masks
from casebook.handler import Handler, Kind
from casebook.labels import Label, LabelSet
from tests.fakes.broken_requests import IMAGE, PIXELS, broken
from tests.fakes.threshold_model import ThresholdSegmenter, ThresholdTracker

LABELS = LabelSet(name="test", labels=(Label(name="pRCA", role="segment"),))
COUNT = 300


def handler() -> Handler:
    return Handler(ThresholdSegmenter(), LABELS, tracker=ThresholdTracker())


def broken_track(dice: random.Random) -> dict[str, Any]:
    """A tracker's request with one thing wrong, sometimes two."""
    points: list[Any] = masks.to_cvat(PIXELS < 100)
    shape: Any = {"type": "mask", "points": points}
    request: dict[str, Any] = {"image": IMAGE, "shapes": [shape], "states": []}
    for place in dice.sample(["points", "points", "shape", "shapes", "state"], dice.choice([1, 2])):
        if place == "points":
            wrong = [-1, 0, 3, 0.5, 10**6, 10**9, 1e308, None, "7", float("nan"), [], True]
            points[dice.randrange(len(points))] = dice.choice(wrong)
        elif place == "shape":
            shape["type"] = dice.choice(["rectangle", "polygon", None, 7])
        elif place == "shapes":
            request["shapes"] = dice.choice([shape, None, {}, [None], [shape] * 300, [[]]])
        else:
            wrong_state = dice.choice(["guess", "", 7, {"key": 1}, "k" * 300])
            request["states"] = dice.choice([[wrong_state], wrong_state, [wrong_state] * 300])
    return request


def test_a_trackers_broken_requests_are_refused_with_a_reason() -> None:
    served, dice = handler(), random.Random(11)  # noqa: S311 - reproducible, nothing secret
    seen = set()
    for _ in range(COUNT):
        request = broken_track(dice)
        reply = served.reply("tracker", request)
        seen.add(reply.status)
        assert reply.status in {200, 400, 409, 413, 422}, request
        assert reply.status == 200 or len(json.loads(reply.body)["error"]) > 10
    assert {400, 409, 422} <= seen


@pytest.mark.parametrize("kind", ["interactor", "detector", "tracker"])
def test_broken_bytes_are_refused_by_every_kind(kind: Kind) -> None:
    served, dice = handler(), random.Random(12)  # noqa: S311 - reproducible, nothing secret
    refused = 0
    for _ in range(COUNT):
        body, _ = broken(dice)
        reply = served.reply(kind, body)
        assert reply.status in {200, 400, 413, 422}, body[:200]
        refused += reply.status != 200
        assert reply.headers["X-Model-Id"] == "threshold"
        assert all(len(str(value)) < 60 for value in reply.log.values())
    assert refused > COUNT * 0.6
