"""What every Segmenter keeps: coordinates, sizes, scores, refusals and repeatability.

One suite for all of them: the tiny SAM 3 with random weights, the shipped base where it is there,
the real one where its weights are (`ANGIOLOOP_SAM3`), the ONNX student, and a small SAM 2
and a small nnU-Net with random weights.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from casebook.errors import PromptError
from casebook.protocols import Frame, Prompt, Segmenter, answers_to, predict_all
from export.onnx import export_student
from export.release import as_segmenter
from export.runtime import load_graphs
from export.student import Student
from segmenter.nnunet_weights import convert, open_nnunet
from segmenter.sam2_weights import open_sam2
from segmenter.sam3 import Sam3Config, build
from segmenter.teacher import load_teacher
from segmenter.weights import save_base
from tests.fakes.small_nnunet import save_trained
from tests.fakes.small_sam2 import save_small_sam2
from tests.unit.export.workshop import LABELS, SMALL, unchecked

SHIPPED = Path(__file__).resolve().parents[2] / "conf" / "tiny-base"
Factory = Callable[[Path], Segmenter]


def _random_tiny(folder: Path) -> Segmenter:
    torch.manual_seed(0)
    sizes = Sam3Config(vit_depth=2, vit_global_blocks=(1,), text_layers=1, multimask=True)
    save_base(build(sizes), folder)
    return load_teacher(folder, None, base=folder)


def _shipped_tiny(folder: Path) -> Segmenter:
    if not (SHIPPED / "model.safetensors").is_file():
        pytest.skip("the shipped base is absent; `make tiny-base` trains it")
    return load_teacher(folder, None, base=SHIPPED)


def _real(folder: Path) -> Segmenter:
    base = os.environ.get("ANGIOLOOP_SAM3")
    if not base:
        pytest.skip("ANGIOLOOP_SAM3 is not set; `make weights` says how to get the real base")
    return load_teacher(folder, None, base=Path(base))


def _student(folder: Path) -> Segmenter:
    torch.manual_seed(0)
    with unchecked():
        export_student(Student(SMALL), folder)
    in_torch = as_segmenter(Student(SMALL), "student", LABELS)
    return replace(in_torch, graphs=load_graphs(folder, 1))


def _sam2(folder: Path) -> Segmenter:
    save_small_sam2(folder)
    return open_sam2(folder)


def _nnunet(folder: Path) -> Segmenter:
    pytest.importorskip("nnunetv2", reason="the extra `nnunet` is not installed")
    save_trained(folder / "results")
    convert(folder / "results", folder / "nnunet")
    return open_nnunet(folder / "nnunet")


FACTORIES: dict[str, Factory] = {
    "tiny, random weights": _random_tiny,
    "tiny, as shipped": _shipped_tiny,
    "real": _real,
    "ONNX student, random weights": _student,
    "SAM 2, random weights": _sam2,
    "nnU-Net, random weights": _nnunet,
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.weights) if name == "real" else name
        for name in FACTORIES
    ],
)
def segmenter(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Segmenter:
    torch.set_num_threads(1)
    return FACTORIES[request.param](tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def frame() -> Frame:
    """A dark curve on a light, noisy ground; higher than wide."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:200, :160]
    pixels = 170 + 8 * rng.standard_normal((200, 160))
    pixels[np.abs(x - 80 - 20 * np.sin(y / 30)) < 5] -= 70
    return Frame(pixels.clip(0, 255).astype(np.uint8))


BOX = Prompt(box_xyxy=(55.0, 60.0, 105.0, 140.0))


def clicks(*points: tuple[float, float, int]) -> Prompt:
    rows = np.array(points, dtype=np.float64).reshape(-1, 3)
    return Prompt(points_xy=rows[:, :2], point_labels=rows[:, 2].astype(np.int64))


def test_it_is_a_segmenter_with_an_id(segmenter: Segmenter) -> None:
    assert isinstance(segmenter, Segmenter)
    assert segmenter.model_id


@pytest.mark.parametrize(
    "prompt",
    [
        BOX,
        clicks((88.0, 100.0, 1)),
        clicks((88.0, 100.0, 1), (20.0, 20.0, 0)),
        Prompt(
            points_xy=np.array([[88.0, 100.0]]),
            point_labels=np.array([1]),
            box_xyxy=(55.0, 60.0, 105.0, 140.0),
        ),
        Prompt(box_xyxy=(0.0, 0.0, 159.0, 199.0)),
        Prompt(box_xyxy=(150.0, 190.0, 400.0, 400.0)),
        Prompt(box_xyxy=(80.0, 100.0, 80.0, 100.0)),
    ],
    ids=["box", "click", "two clicks", "box and click", "whole image", "over the edge", "a pixel"],
)
def test_a_box_or_clicks_give_one_mask_of_the_image_size(
    segmenter: Segmenter, frame: Frame, prompt: Prompt
) -> None:
    found = segmenter.predict(segmenter.embed(frame), prompt)
    assert len(found) == 1
    assert found[0].bitmap.shape == frame.hw
    assert 0 <= found[0].score <= 1
    assert 0 <= found[0].uncertainty <= 1


def test_logits_and_bitmap_agree(segmenter: Segmenter, frame: Frame) -> None:
    found = segmenter.predict(segmenter.embed(frame), BOX)[0]
    assert found.logits is not None
    assert np.isfinite(found.logits).all()
    assert np.array_equal(found.logits > 0, found.bitmap)


def test_the_same_prompt_gets_the_same_answer(segmenter: Segmenter, frame: Frame) -> None:
    one = segmenter.predict(segmenter.embed(frame), BOX)[0]
    segmenter.predict(segmenter.embed(frame), clicks((30.0, 30.0, 1)))
    other = segmenter.predict(segmenter.embed(frame), BOX)[0]
    assert np.array_equal(one.bitmap, other.bitmap)
    assert one.score == other.score


def test_prompts_asked_together_get_the_answers_of_each_alone(
    segmenter: Segmenter, frame: Frame
) -> None:
    embedding = segmenter.embed(frame)
    first = segmenter.predict(embedding, BOX)[0]
    prompts = [
        Prompt(concept="LAD"),
        BOX,
        clicks((88.0, 100.0, 1)),
        Prompt(box_xyxy=(10.0, 20.0, 60.0, 90.0)),
        Prompt(concept="a branch"),
        Prompt(box_xyxy=BOX.box_xyxy, mask_logits=first.logits),
        clicks((88.0, 100.0, 1), (20.0, 20.0, 0)),
        clicks((30.0, 150.0, 1)),
        Prompt(),
    ]
    together = answers_to(segmenter, embedding, prompts)
    for prompt, found in zip(prompts, together, strict=True):
        (alone,) = answers_to(segmenter, segmenter.embed(frame), [prompt])
        assert (found is None) == (alone is None)
        assert len(found or ()) == len(alone or ())
        for one, other in zip(found or (), alone or (), strict=True):
            assert one.label == other.label
            assert one.score == pytest.approx(other.score, abs=1e-3)
            assert (one.bitmap != other.bitmap).mean() < 1e-3
    assert together[-1] is None
    assert answers_to(segmenter, embedding, []) == ()
    with pytest.raises(PromptError, match="empty"):
        predict_all(segmenter, embedding, [BOX, Prompt()])


def test_the_answer_can_be_given_back_to_be_corrected(segmenter: Segmenter, frame: Frame) -> None:
    embedding = segmenter.embed(frame)
    first = segmenter.predict(embedding, BOX)[0]
    again = segmenter.predict(
        embedding,
        Prompt(
            points_xy=np.array([[88.0, 100.0]]),
            point_labels=np.array([1]),
            box_xyxy=BOX.box_xyxy,
            mask_logits=first.logits,
        ),
    )
    assert again[0].bitmap.shape == frame.hw


def test_a_mask_lies_near_its_box(segmenter: Segmenter, frame: Frame) -> None:
    bitmap = segmenter.predict(segmenter.embed(frame), Prompt(box_xyxy=(10.0, 10.0, 40.0, 40.0)))[
        0
    ].bitmap
    assert not bitmap[150:].any()


def test_a_concept_gives_any_number_of_named_masks(segmenter: Segmenter, frame: Frame) -> None:
    found = segmenter.predict(segmenter.embed(frame), Prompt(concept="coronary artery"))
    scores = [prediction.score for prediction in found]
    assert scores == sorted(scores, reverse=True)
    for prediction in found:
        assert prediction.label == "coronary artery"
        assert prediction.bitmap.shape == frame.hw


@pytest.mark.parametrize(
    "name",
    ["zebra", "冠状动脉", "proximal LAD, RAO 30 cranial 20 " * 200, "\x00"],
    ids=["unknown", "another script", "far too long", "no letter"],
)
def test_a_name_nobody_knows_is_answered_by_masks_or_none(
    segmenter: Segmenter, frame: Frame, name: str
) -> None:
    for prediction in segmenter.predict(segmenter.embed(frame), Prompt(concept=name)):
        assert prediction.label == name
        assert 0 <= prediction.score <= 1


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        clicks((500.0, 10.0, 1)),
        clicks((10.0, 10.0, 0)),
        clicks((10.0, 10.0, 1), (10.0, 10.0, 0)),
        Prompt(box_xyxy=(300.0, 300.0, 400.0, 400.0)),
        Prompt(box_xyxy=(float("nan"), 0.0, 9.0, 9.0)),
        Prompt(concept="  "),
    ],
    ids=["empty", "outside", "negative only", "contradiction", "box outside", "NaN", "no word"],
)
def test_bad_prompts_are_refused(segmenter: Segmenter, frame: Frame, prompt: Prompt) -> None:
    with pytest.raises(PromptError):
        segmenter.predict(segmenter.embed(frame), prompt)


@pytest.mark.parametrize("hw", [(1, 1), (16, 200), (61, 47)], ids=["a pixel", "a strip", "odd"])
def test_frames_of_any_shape_are_answered(segmenter: Segmenter, hw: tuple[int, int]) -> None:
    small = Frame(np.full(hw, 90, dtype=np.uint8))
    prompt = Prompt(box_xyxy=(0.0, 0.0, hw[1] - 1.0, hw[0] - 1.0))
    assert segmenter.predict(segmenter.embed(small), prompt)[0].bitmap.shape == hw
