"""The three deployed functions over HTTP, with what annotators and other programs really send.

A small SAM 3 with random weights answers: every kind of image, of any size, and every kind of
prompt gets a mask of the image's size or a sentence that says what is wrong.
"""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from casebook import masks
from casebook.catalogue import png_bytes
from segmenter.sam3 import SMALLEST, build
from segmenter.weights import save_base
from tests.contract.runtimes import Reply, StandIn, stand_in

SERVERLESS = Path(__file__).resolve().parents[2] / "serverless"
PIXELS = np.full((96, 80), 170, dtype=np.uint8)
PIXELS[40:52, 10:70] = 50
DEEP = PIXELS.astype(np.uint16) * 257
BOX = {"obj_bbox": [[8, 36], [72, 56]]}
EMPTY: dict[str, Any] = {"pos_points": [], "neg_points": [], "obj_bbox": None}
"""What CVAT sends before anything was clicked."""


class Functions:
    """The functions by their kind."""

    def __init__(self, running: dict[str, StandIn]) -> None:
        self._running = running

    def ask(self, kind: str, image: bytes | None = None, **body: object) -> Reply:
        """A function's answer to an image and a prompt, as CVAT would put it."""
        encoded = base64.b64encode(png_bytes(PIXELS) if image is None else image).decode()
        return self._running[kind].post(json.dumps({"image": encoded, **body}).encode())


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Functions]:
    folder = tmp_path_factory.mktemp("functions")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    save_base(build(SMALLEST), folder / "base")
    labels = {"name": "two", "labels": [{"name": "mid RCA", "role": "segment"}, {"name": "PDA"}]}
    (folder / "labels.yaml").write_text(yaml.safe_dump(labels))
    settings = {
        "labels": "labels.yaml",
        "base": str(folder / "base"),
        "answers": {"threshold": 0.0},
    }
    (folder / "serving.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANGIOLOOP_CONF", str(folder))
        patch.setenv("ANGIOLOOP_HOME", str(folder / "workspace"))
        patch.delenv("ANGIOLOOP_MODEL", raising=False)
        patch.delenv("ANGIOLOOP_SHARED", raising=False)
        with (
            stand_in(SERVERLESS / "interactor") as interactor,
            stand_in(SERVERLESS / "detector") as detector,
            stand_in(SERVERLESS / "tracker") as tracker,
        ):
            yield Functions({"interactor": interactor, "detector": detector, "tracker": tracker})


def shapes(reply: Reply, hw: tuple[int, int] = (96, 80)) -> list[np.ndarray]:
    """The masks of an interactor's answer, each checked against the image's size."""
    assert reply.status == 200, reply.body
    return [masks.from_cvat(shape["points"], hw) for shape in reply.json()["shapes"]]


def refusal(reply: Reply) -> tuple[int, str]:
    assert reply.content_type == "application/json"
    assert "Traceback" not in reply.body.decode()
    return reply.status, reply.json()["error"]


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def with_alpha(alpha: int) -> bytes:
    colours = Image.fromarray(PIXELS).convert("RGB")
    colours.putalpha(Image.fromarray(np.full_like(PIXELS, alpha)))
    return saved(colours)


GREY = Image.fromarray(PIXELS)
SAME = {
    "grey": saved(GREY),
    "RGB": saved(GREY.convert("RGB")),
    "RGBA, opaque": with_alpha(255),
    "RGBA, half transparent": with_alpha(128),
    "RGBA, wholly transparent": with_alpha(0),
    "grey with alpha": saved(GREY.convert("LA")),
    "palette": saved(GREY.convert("P")),
    "palette with transparent colours": saved(GREY.convert("P"), transparency=bytes(256)),
    "bitmap file": saved(GREY, "BMP"),
    "TIFF": saved(GREY, "TIFF"),
}


@pytest.mark.parametrize("image", SAME.values(), ids=SAME.keys())
def test_the_same_picture_is_answered_the_same_in_every_form(
    functions: Functions, image: bytes
) -> None:
    for kind, prompt in (("interactor", BOX), ("detector", {"threshold": 0.0})):
        plain, other = (functions.ask(kind, each, **prompt) for each in (SAME["grey"], image))
        assert (plain.status, other.status) == (200, 200), other.body
        assert other.body == plain.body


DEEPER = {
    "grey, 16 bits": png_bytes(DEEP),
    "RGB, 16 bits": imagecodecs.png_encode(np.stack([DEEP] * 3, axis=-1)),
    "RGBA, 16 bits": imagecodecs.png_encode(np.stack([DEEP] * 4, axis=-1)),
    "grey with alpha, 16 bits": imagecodecs.png_encode(np.stack([DEEP] * 2, axis=-1)),
    "TIFF, 16 bits": saved(Image.fromarray(DEEP), "TIFF"),
    "TIFF, 32 bits": saved(Image.fromarray(PIXELS.astype(np.int32)), "TIFF"),
    "TIFF, fractions": saved(Image.fromarray(PIXELS.astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", ["interactor", "detector", "tracker"])
@pytest.mark.parametrize("image", DEEPER.values(), ids=DEEPER.keys())
def test_a_deeper_picture_is_refused_and_not_cut(
    functions: Functions, kind: str, image: bytes
) -> None:
    prompt: dict[str, Any] = {"interactor": BOX, "detector": {}}.get(
        kind, {"shapes": [{"type": "rectangle", "points": [8, 36, 72, 56]}]}
    )
    status, reason = refusal(functions.ask(kind, image, **prompt))
    assert status == 422
    assert "expected 8 bits; render it first" in reason


@pytest.mark.parametrize(
    "hw", [(1, 1), (1, 2), (2, 1), (3, 3), (1, 300), (300, 1)], ids=lambda hw: f"{hw[1]}x{hw[0]}"
)
def test_tiny_pictures_are_answered_in_their_own_size(
    functions: Functions, hw: tuple[int, int]
) -> None:
    height, width = hw
    image = png_bytes(np.arange(height * width, dtype=np.uint8).reshape(hw))
    corners = [[0, 0], [width, height]]
    for prompt in ({"obj_bbox": corners}, {"pos_points": [[0, 0]]}, {"text_prompts": ["PDA"]}):
        shapes(functions.ask("interactor", image, **prompt), hw)
    found = functions.ask("detector", image)
    assert found.status == 200, found.body
    for entry in found.json():
        masks.from_detector(entry["mask"], hw)
    shape = {"type": "rectangle", "points": [0, 0, width, height]}
    started = functions.ask("tracker", image, shapes=[shape])
    assert started.status == 200, started.body
    followed = functions.ask("tracker", image, shapes=[None], states=started.json()["states"])
    assert followed.status == 200, followed.body
    assert followed.json()["shapes"][0]["type"] == "rectangle"


@pytest.mark.parametrize(
    "corners",
    [
        [[40, 45], [40, 45]],
        [[40.2, 45.7], [40.3, 45.8]],
        [[0, 0], [0, 0]],
        [[79, 95], [79, 95]],
        [[79, 95], [80, 96]],
        [[40, 0], [40, 95]],
    ],
    ids=["a pixel", "less than one", "first", "last", "over the edge", "a line"],
)
def test_boxes_of_a_pixel_are_answered(functions: Functions, corners: list[list[float]]) -> None:
    for bitmap in shapes(functions.ask("interactor", obj_bbox=corners)):
        assert bitmap.shape == (96, 80)
    (x1, y1), (x2, y2) = corners
    shape = {"type": "rectangle", "points": [x1, y1, x2, y2]}
    started = functions.ask("tracker", shapes=[shape])
    assert started.status == 200, started.body


def test_corners_in_any_order_and_over_the_edge_are_one_box(functions: Functions) -> None:
    answers = [
        functions.ask("interactor", obj_bbox=corners)
        for corners in (
            [[8, 36], [79, 95]],
            [[79, 95], [8, 36]],
            [[79, 36], [8, 95]],
            [[8, 36], [5000, 5000]],
        )
    ]
    assert [answer.status for answer in answers] == [200] * 4
    assert len({answer.body for answer in answers}) == 1


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ({}, "the prompt is empty; give a box, a point or a concept"),
        (EMPTY, "the prompt is empty; give a box, a point or a concept"),
        ({**EMPTY, "obj_bbox": [], "text_prompts": []}, "the prompt is empty"),
        ({"neg_points": [[20, 44]]}, "only negative points; give a box or a point inside"),
        ({"pos_points": [[20, 44]], "neg_points": [[20, 44]]}, "both inside and outside; drop one"),
        ({"pos_points": [[80, 96]], "neg_points": [[79, 95]]}, "both inside and outside; drop one"),
        ({"pos_points": [[20, 44]], "text_prompts": ["PDA"]}, "give either text or points and box"),
        ({**BOX, "text_prompts": ["PDA"]}, "give either text or points and box"),
        ({"pos_points": [[81, 4]]}, "point 81,4 is outside the 80×96 px image"),
        ({"pos_points": [[20, 44]], "neg_points": [[4, -3]]}, "point 4,-3 is outside"),
        ({"obj_bbox": [[90, 100], [95, 110]]}, "box 90,100,95,110 is outside the image"),
        ({"obj_bbox": [[float("nan"), 0], [9, 9]]}, "finite"),
        ({"text_prompts": ["  "]}, "the concept is an empty text; give a label's name"),
    ],
    ids=[
        *("nothing", "empty as CVAT sends it", "empty lists", "negative only", "contradiction"),
        *("contradiction at the border", "text and click", "text and box", "click outside"),
        *("negative click outside", "box outside", "NaN", "blank text"),
    ],
)
def test_a_prompt_that_makes_no_sense_is_refused_with_a_sentence(
    functions: Functions, prompt: dict[str, Any], reason: str
) -> None:
    status, said = refusal(functions.ask("interactor", **prompt))
    assert status == 400
    assert reason in said


@pytest.mark.parametrize(
    "text",
    ["zebra", "mid RCA stenosis, RAO 30 cranial 20", "冠状动脉", "🫀", "\x00", "x" * 200],
    ids=["unknown", "with a view", "another script", "emoji", "no letter", "long"],
)
def test_a_text_nobody_knows_is_answered_by_masks_or_none(functions: Functions, text: str) -> None:
    for bitmap in shapes(functions.ask("interactor", text_prompts=[text])):
        assert bitmap.any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("x" * 201, "at most 200 characters"), ("", "at least 1 character"), ("\ud83d", "unicode")],
    ids=["without end", "empty", "half a letter"],
)
def test_what_is_no_text_is_refused(functions: Functions, text: str, reason: str) -> None:
    status, said = refusal(functions.ask("interactor", text_prompts=[text]))
    assert status == 400
    assert reason in said


def test_after_all_that_a_plain_box_is_still_answered(functions: Functions) -> None:
    (bitmap,) = shapes(functions.ask("interactor", **BOX))
    assert bitmap.any()
