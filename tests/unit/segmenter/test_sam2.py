import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from casebook.errors import ModelError, UnreachableError
from casebook.protocols import Frame, Prompt
from segmenter.prompts import WindowConfig, crop, whole_window
from segmenter.sam2 import Sam2
from segmenter.sam2_weights import SIZES, WEIGHTS, fetch, main, open_sam2
from segmenter.upstream import import_upstream
from tests.fakes.small_sam2 import SIDE_PX, save_small_sam2

NAME = "mask_decoder.iou_token.weight"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sam2") / "small"
    save_small_sam2(folder)
    return folder


@pytest.fixture
def copy(weights: Path, tmp_path: Path) -> Path:
    for path in weights.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def frame(seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 255, (90, 120)).astype(np.uint8))


def test_ten_prompts_on_an_image_run_the_encoder_once(weights: Path) -> None:
    transformers = import_upstream(("transformers",))["transformers"]
    opened = transformers.Sam2VideoModel.from_pretrained(weights)
    segmenter = Sam2(opened, "whole", transformers, windows=WindowConfig(whole_image=True))
    embedding = segmenter.embed(frame())
    for shift in range(10):
        click = np.array([[60.0, 40.0], [10.0 + shift, 70.0]])
        segmenter.predict(embedding, Prompt(click, np.array([1, 0])))
    assert segmenter.n_embeds == 1


def test_an_answer_is_that_of_transformers_own_image_model(weights: Path) -> None:
    transformers = import_upstream(("transformers",))["transformers"]
    segmenter = open_sam2(weights)
    whole = Sam2(
        transformers.Sam2VideoModel.from_pretrained(weights),
        "whole",
        transformers,
        windows=WindowConfig(whole_image=True),
    )
    square = Frame(np.random.default_rng(1).integers(0, 255, (SIDE_PX, SIDE_PX)).astype(np.uint8))
    box = (20.0, 30.0, 90.0, 100.0)
    found = whole.predict(whole.embed(square), Prompt(box_xyxy=box))[0]
    # The image model of the same weights, asked as its processor would ask it.
    config = transformers.Sam2Config(
        **{
            name: getattr(whole._model.config, name)
            for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
        }
    )
    theirs = transformers.Sam2Model(config).eval()
    theirs.load_state_dict(whole._model.state_dict(), strict=False)
    pixels = torch.from_numpy(crop(square.pixels, whole_window(square.hw), SIDE_PX)).float() / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    colour = (pixels[..., None] - mean) / deviation
    with torch.inference_mode():
        out = theirs(
            pixel_values=colour.permute(2, 0, 1)[None],
            input_boxes=torch.tensor([[box]]),
            multimask_output=False,
        )
        grown = torch.nn.functional.interpolate(
            out.pred_masks[0], (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False
        )[0, 0]
    assert found.logits is not None
    assert np.allclose(found.logits, grown.numpy(), atol=1e-5)
    assert found.score == pytest.approx(float(out.iou_scores[0, 0, 0]), abs=1e-5)
    assert segmenter.model_id == "small"


def test_a_concept_is_answered_by_nothing(weights: Path) -> None:
    segmenter = open_sam2(weights)
    assert segmenter.predict(segmenter.embed(frame()), Prompt(concept="left ventricle")) == ()


def test_a_walk_remembers_a_bounded_number_of_frames(weights: Path) -> None:
    tracker = open_sam2(weights)
    bitmap = np.zeros((90, 120), dtype=bool)
    bitmap[30:60, 40:80] = True
    memory = tracker.start(frame(), bitmap)
    for position in range(1, 20):
        memory, _ = tracker.step(memory, frame(position))
        assert memory.index == position
    assert set(memory.given) == {0}
    assert set(memory.found) == set(range(4, 20))


def test_a_folder_without_a_model_says_how_to_fetch_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config.json is missing.*segmenter.sam2_weights"):
        open_sam2(tmp_path)


def test_a_configuration_of_another_model_is_refused(copy: Path) -> None:
    sizes = json.loads((copy / SIZES).read_text())
    (copy / SIZES).write_text(json.dumps(sizes | {"model_type": "sam2"}))
    with pytest.raises(ModelError, match=r"holds a 'sam2', expected 'sam2_video'"):
        open_sam2(copy)
    (copy / SIZES).write_text("[]")
    with pytest.raises(ModelError, match="is not a model's configuration"):
        open_sam2(copy)


def _keep(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def test_weights_that_are_missing_unknown_or_of_another_size_are_refused(copy: Path) -> None:
    state = load_file(copy / WEIGHTS)
    _keep(copy, {key: value for key, value in state.items() if key != NAME})
    with pytest.raises(ModelError, match=r"1 weights are missing and 0 unknown, first mask_dec"):
        open_sam2(copy)
    _keep(copy, {**state, "of_something_else": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"0 weights are missing and 1 unknown, first of_some"):
        open_sam2(copy)
    _keep(copy, {**state, NAME: torch.zeros(2, 7)})
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_sam2(copy)


def test_weights_that_are_damaged_or_not_finite_are_refused(copy: Path) -> None:
    state = load_file(copy / WEIGHTS)
    _keep(copy, {**state, NAME: state[NAME] * float("nan")})
    with pytest.raises(ModelError, match=r"iou_token.weight holds NaN"):
        open_sam2(copy)
    (copy / WEIGHTS).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_sam2(copy)


def test_a_hub_out_of_reach_is_said_and_what_to_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    constants = import_upstream(("huggingface_hub.constants",))["huggingface_hub.constants"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UnreachableError, match=r"cannot be reached.*copy its config.json"):
        fetch("nobody/nothing", tmp_path / "out")
    told = CliRunner().invoke(main, ["--out", str(tmp_path / "out")])
    assert told.exit_code == UnreachableError.exit_code
    assert "facebook/sam2.1-hiera-tiny was not downloaded" in told.output
