"""The three functions over a model without weights."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from casebook import masks
from casebook.calibration import Calibration, Curve
from casebook.cases import PixelSpacing, View
from casebook.catalogue import png_bytes
from casebook.errors import ModelError, QcaError
from casebook.handler import Handler, Kind, Model, Reply, ServeConfig, crashed, refused
from casebook.labels import Label, LabelSet
from casebook.protocols import Frame
from casebook.tracks import TrackStore
from tests.fakes.threshold_model import ThresholdSegmenter, ThresholdTracker

LABELS = LabelSet(
    name="test",
    labels=(
        Label(name="pRCA", role="segment"),
        Label(name="tree", role="tree"),
        Label(name="rejected", kind="tag", role="reject"),
    ),
)
SPACING = PixelSpacing(row_mm=0.3, col_mm=0.3, source="isocentre")


def picture(*boxes_xyxy: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.full((48, 64), 180, dtype=np.uint8)
    for x1, y1, x2, y2 in boxes_xyxy:
        pixels[y1:y2, x1:x2] = 60
    return pixels


VESSEL = picture((10, 10, 40, 16))
TWO_VESSELS = picture((10, 10, 40, 16), (5, 30, 60, 38))


def image(pixels: np.ndarray) -> str:
    return base64.b64encode(png_bytes(pixels, SPACING)).decode()


def handler(segmenter: ThresholdSegmenter | None = None, **options: Any) -> Handler:
    return Handler(segmenter or ThresholdSegmenter(), LABELS, **options)


def answered(reply: Reply) -> Any:
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def ask(served: Handler, **prompt: Any) -> Reply:
    return served.reply("interactor", {"image": image(VESSEL), **prompt})


def test_the_interactor_answers_the_mask_in_the_box_with_its_confidence() -> None:
    (shape,) = answered(ask(handler(), obj_bbox=[[8, 8], [42, 20]]))["shapes"]
    bitmap = masks.from_cvat(shape["points"], (48, 64))
    assert np.array_equal(bitmap, VESSEL < 100)
    assert shape["type"] == "mask"
    assert shape["attributes"] == [{"spec_id": 0, "value": "0.9000"}]


def test_clicks_on_one_image_cost_one_embedding() -> None:
    segmenter = ThresholdSegmenter()
    served = handler(segmenter)
    for clicks in ([[12, 12]], [[12, 12], [30, 13]], [[20, 11]]):
        assert answered(ask(served, pos_points=clicks))["shapes"]
    assert len(segmenter.embedded) == 1
    answered(served.reply("interactor", {"image": image(TWO_VESSELS), "pos_points": [[12, 12]]}))
    assert len(segmenter.embedded) == 2


def test_the_images_kept_are_the_last_ones_used() -> None:
    segmenter = ThresholdSegmenter()
    served = handler(segmenter, config=ServeConfig(kept_images=2))
    first, second, third = (picture((10, 10, 40, end)) for end in (16, 17, 18))
    for pixels in (first, second, first, third, first):
        served.reply("interactor", {"image": image(pixels), "pos_points": [[12, 12]]})
    assert len(segmenter.embedded) == 3
    served.reply("interactor", {"image": image(second), "pos_points": [[12, 12]]})
    assert len(segmenter.embedded) == 4


def test_prewarming_embeds_without_a_prompt() -> None:
    segmenter = ThresholdSegmenter()
    served = handler(segmenter)
    assert answered(ask(served, prewarm=True)) == {"shapes": []}
    assert segmenter.boxes == [(0.0, 0.0, 63.0, 47.0)]  # a model may look only when it is asked
    reply = ask(served, pos_points=[[12, 12]])
    assert len(segmenter.embedded) == 1
    assert reply.log["cached"] == 1


def test_the_annotators_own_region_is_kept_and_others_are_dropped() -> None:
    body = {"image": image(TWO_VESSELS), "obj_bbox": [[0, 0], [63, 47]]}
    (largest,) = answered(handler().reply("interactor", body))["shapes"]
    assert masks.from_cvat(largest["points"], (48, 64)).sum() == 55 * 8
    untidied = handler(config=ServeConfig(keep_largest=False))
    (both,) = answered(untidied.reply("interactor", body))["shapes"]
    assert masks.from_cvat(both["points"], (48, 64)).sum() == 55 * 8 + 30 * 6


def test_an_older_server_gets_one_full_size_mask() -> None:
    served = handler(config=ServeConfig(answer="mask"))
    grid = answered(ask(served, obj_bbox=[[8, 8], [42, 20]]))["mask"]
    assert np.array_equal(masks.from_grid(grid), VESSEL < 100)


def test_text_prompts_ask_for_concepts() -> None:
    segmenter = ThresholdSegmenter()
    body = {"image": image(TWO_VESSELS), "text_prompts": ["stenosis", "tree"]}
    shapes = answered(handler(segmenter).reply("interactor", body))["shapes"]
    assert segmenter.concepts == ["stenosis", "tree"]
    assert len(shapes) == 4


def test_nothing_found_is_an_empty_answer_not_an_error() -> None:
    assert answered(ask(handler(), pos_points=[[1, 1]])) == {"shapes": []}


@pytest.mark.parametrize(
    ("half", "shown"), [(0.5, "0.9000"), (0.9, "0.5000"), (0.95, "0.4737"), (0.2, "0.9375")]
)
def test_confidence_is_shown_so_that_even_odds_are_one_half(half: float, shown: str) -> None:
    served = handler(config=ServeConfig(score_half=half))
    (shape,) = answered(ask(served, obj_bbox=[[8, 8], [42, 20]]))["shapes"]
    assert shape["attributes"][0]["value"] == shown


def curve(slope: float, intercept: float) -> Curve:
    return Curve(
        slope=slope, intercept=intercept, masks=20, right=10, brier_score=0.2, brier_curve=0.2
    )


def test_a_calibrated_model_shows_the_chance_of_each_path() -> None:
    measured = Calibration(
        model_id="threshold", cases=20, box=curve(0.0, 0.0), concept=curve(0.0, -2.0)
    )
    served = handler(calibration=measured)
    (shape,) = answered(ask(served, obj_bbox=[[8, 8], [42, 20]]))["shapes"]
    assert shape["attributes"][0]["value"] == "0.5000"
    (shape,) = answered(ask(served, text_prompts=["tree"]))["shapes"]
    assert shape["attributes"][0]["value"] == "0.1192"
    assert answered(served.reply("detector", {"image": image(VESSEL)})) == []
    (first, _) = answered(served.reply("detector", {"image": image(VESSEL), "threshold": 0.1}))
    assert first["confidence"] == "0.1192"


def test_a_path_that_was_not_measured_is_shown_as_without_calibration() -> None:
    served = handler(calibration=Calibration(model_id="threshold", cases=20))
    (shape,) = answered(ask(served, obj_bbox=[[8, 8], [42, 20]]))["shapes"]
    assert shape["attributes"][0]["value"] == "0.9000"


def seen_from(primary_deg: float) -> str:
    view = View(primary_deg=primary_deg, secondary_deg=0)
    return base64.b64encode(png_bytes(VESSEL, SPACING, view)).decode()


def test_an_image_of_a_specialists_view_is_answered_by_the_specialist() -> None:
    general, special = ThresholdSegmenter("general"), ThresholdSegmenter("special")

    def choose(view: View | None) -> Model | None:
        right = view is not None and view.primary_deg > 0
        return Model(special, ThresholdTracker()) if right else None

    served = handler(general, choose=choose, tracker=ThresholdTracker())
    asked: tuple[tuple[Kind, dict[str, Any]], ...] = (
        ("interactor", {"pos_points": [[12, 12]]}),
        ("detector", {}),
        ("tracker", {"shapes": [{"type": "rectangle", "points": [8, 8, 42, 20]}]}),
    )
    for kind, body in asked:
        named = [
            served.reply(kind, {"image": seen_from(angle), **body}).headers["X-Model-Id"]
            for angle in (30.0, -30.0, 30.0)
        ]
        assert named == ["special", "general", "special"], kind
    found = answered(served.reply("detector", {"image": seen_from(30)}))
    assert {"name": "model_id", "value": "special"} in found[0]["attributes"]
    reply = served.reply("interactor", {"image": image(VESSEL), "pos_points": [[12, 12]]})
    assert reply.headers["X-Model-Id"] == "general"
    refusal = served.reply("interactor", {"image": seen_from(30), "pos_points": [[500, 1]]})
    assert (refusal.status, refusal.headers["X-Model-Id"]) == (400, "special")


def test_every_answer_names_its_model_and_times_in_text_headers() -> None:
    reply = ask(handler(ThresholdSegmenter("round-03")), obj_bbox=[[8, 8], [42, 20]])
    assert reply.headers["X-Model-Id"] == "round-03"
    assert "embed;dur=" in reply.headers["Server-Timing"]
    assert all(isinstance(value, str) for value in reply.headers.values())


def test_the_log_has_sizes_and_times_but_no_image_and_no_mask() -> None:
    log = ask(handler(), obj_bbox=[[8, 8], [42, 20]], pos_points=[[12, 12]]).log
    assert log["width_px"] == 64
    assert (log["clicks"], log["box"], log["shapes"], log["status"]) == (1, 1, 1, 200)
    assert log["model_id"] == "threshold"
    assert float(log["predict_ms"]) >= 0
    assert all(len(str(value)) < 40 for value in log.values())


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"nonsense", 400, "not JSON"),
        ({"image": image(VESSEL)}, 400, "empty"),
        ({"image": image(VESSEL), "pos_points": [[500, 1]]}, 400, "outside"),
        ({"image": base64.b64encode(b"no picture").decode()}, 422, "not a readable image"),
        ({"image": image(np.zeros((8, 8), dtype=np.uint16))}, 422, "8 bits"),
        (b"x" * 5001, 413, "limit is 5000"),
    ],
)
def test_a_bad_request_is_answered_with_status_and_reason(
    body: object, status: int, reason: str
) -> None:
    served = handler(config=ServeConfig(max_body_bytes=5000))
    reply = served.reply("interactor", body)
    assert reply.status == status
    assert reason in json.loads(reply.body)["error"]
    assert reply.headers["X-Model-Id"] == "threshold"
    assert "error" in reply.log


def measured(frame: Frame, bitmap: np.ndarray) -> Mapping[str, str]:
    assert frame.spacing == SPACING
    if bitmap.sum() > 300:
        raise QcaError("too long")
    return {"stenosis_pct": "57", "mld": "1.35 mm"}


def test_the_detector_answers_every_label_with_its_attributes() -> None:
    segmenter = ThresholdSegmenter("m1")
    served = handler(segmenter, measure=measured)
    found = answered(served.reply("detector", {"image": image(TWO_VESSELS)}))
    assert segmenter.concepts == ["pRCA", "tree"]
    assert [entry["label"] for entry in found] == ["pRCA", "pRCA", "tree", "tree"]
    values = [{a["name"]: a["value"] for a in entry["attributes"]} for entry in found]
    plain = {"model_id": "m1", "confidence": "90"}
    assert values == [{**plain, "stenosis_pct": "57", "mld": "1.35 mm"}, plain, plain, plain]
    assert masks.from_detector(found[0]["mask"], (48, 64)).sum() == 30 * 6
    assert len(segmenter.embedded) == 1


def test_the_detector_keeps_what_is_sure_enough() -> None:
    body = {"image": image(picture((2, 2, 5, 5)))}
    assert answered(handler().reply("detector", body)) == []
    assert len(answered(handler().reply("detector", {**body, "threshold": 0.1}))) == 2
    low = handler(config=ServeConfig(threshold=0.1))
    assert len(answered(low.reply("detector", body))) == 2


def test_the_tracker_follows_a_mask_by_opaque_keys() -> None:
    served = handler(tracker=ThresholdTracker())
    first = VESSEL < 100
    shape = {"type": "mask", "points": masks.to_cvat(first)}
    start = answered(
        served.reply("tracker", {"image": image(VESSEL), "shapes": [shape], "states": []})
    )
    assert masks.from_cvat(start["shapes"][0]["points"], (48, 64)).sum() == first.sum()
    moved = picture((12, 11, 42, 17))
    body = {"image": image(moved), "shapes": [None], "states": start["states"]}
    step = answered(served.reply("tracker", body))
    bitmap = masks.from_cvat(step["shapes"][0]["points"], (48, 64))
    assert np.array_equal(bitmap, moved < 100)
    assert step["states"] != start["states"]
    assert answered(served.reply("tracker", body))["shapes"] == step["shapes"]


def test_a_tracked_rectangle_comes_back_as_a_rectangle() -> None:
    served = handler(tracker=ThresholdTracker())
    shape = {"type": "rectangle", "points": [8, 8, 42, 20]}
    start = answered(served.reply("tracker", {"image": image(VESSEL), "shapes": [shape]}))
    assert start["shapes"] == [shape]
    moved = picture((12, 11, 42, 17))
    step = answered(served.reply("tracker", {"image": image(moved), "states": start["states"]}))
    assert step["shapes"] == [{"type": "rectangle", "points": [12, 11, 42, 17]}]


def test_a_lost_object_stays_where_it_was_last_seen() -> None:
    served = handler(tracker=ThresholdTracker())
    shape = {"type": "rectangle", "points": [50, 30, 60, 40]}
    start = answered(served.reply("tracker", {"image": image(VESSEL), "shapes": [shape]}))
    step = answered(served.reply("tracker", {"image": image(VESSEL), "states": start["states"]}))
    assert step["shapes"] == [shape]


def test_a_track_steps_with_the_model_that_started_it() -> None:
    tracks = TrackStore()
    old = handler(ThresholdSegmenter("old"), tracker=ThresholdTracker(), tracks=tracks)
    new = handler(ThresholdSegmenter("new"), tracker=ThresholdTracker(), tracks=tracks)
    shape = {"type": "rectangle", "points": [8, 8, 42, 20]}
    started = old.reply("tracker", {"image": image(VESSEL), "shapes": [shape]})
    states = answered(started)["states"]
    step = new.reply("tracker", {"image": image(VESSEL), "states": states})
    assert answered(step)["states"]
    assert step.headers["X-Model-Id"] == "old"


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"states": ["guess"]}, 409, "unknown or expired"),
        ({"shapes": [{"type": "mask", "points": [4, 0, 0, 1, 1]}]}, 400, "empty"),
        ({"shapes": [{"type": "mask", "points": [3, 0, 0, 1, 1]}]}, 422, "add up"),
        ({"shapes": [{"type": "rectangle", "points": [90, 0, 99, 1]}]}, 400, "outside"),
    ],
)
def test_a_track_that_cannot_start_is_refused(
    body: dict[str, Any], status: int, reason: str
) -> None:
    reply = handler(tracker=ThresholdTracker()).reply("tracker", {"image": image(VESSEL), **body})
    assert reply.status == status
    assert reason in json.loads(reply.body)["error"]


def test_a_model_that_cannot_track_says_so() -> None:
    reply = handler().reply("tracker", {"image": image(VESSEL), "states": ["x"]})
    assert reply.status == 500
    assert "cannot track" in json.loads(reply.body)["error"]


def test_a_bug_of_the_model_is_not_hidden() -> None:
    body = {"image": image(VESSEL), "text_prompts": ["broken"]}
    with pytest.raises(RuntimeError, match="a bug"):
        handler().reply("interactor", body)


def test_a_model_error_keeps_its_status() -> None:
    reply = handler().reply("interactor", {"image": image(VESSEL), "text_prompts": ["gone"]})
    assert reply.status == 503
    assert "restore" in json.loads(reply.body)["error"]


def test_the_edges_replies_are_json_with_a_reason() -> None:
    reply = refused(ModelError("no weights; fetch them"))
    assert (reply.status, json.loads(reply.body)) == (503, {"error": "no weights; fetch them"})
    bug = crashed("m")
    assert bug.status == 500
    assert bug.headers["X-Model-Id"] == "m"
    assert "log" in json.loads(bug.body)["error"]
