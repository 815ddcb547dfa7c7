import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from casebook.errors import ConfigError, ModelError
from casebook.protocols import Frame, Prompt
from segmenter.nnunet import Nnunet
from segmenter.nnunet_weights import DATASET, PLANS, convert, main, open_nnunet, weights_of
from tests.fakes.small_nnunet import save_checkpoint, save_trained

LABELS = {"coronary artery": 1, "aorta": 2}


class Painted:
    """Stands for nnU-Net's predictor: what is dark is an artery, what is bright the aorta."""

    def predict_single_npy_array(
        self, picture: np.ndarray, properties: dict[str, object], *_: object
    ) -> tuple[None, np.ndarray]:
        assert properties == {"spacing": (999.0, 1.0, 1.0)}
        grey = picture[0]
        shares = np.stack([np.full(grey.shape, 0.8), 0.1 + 0.0 * grey, 0.1 + 0.0 * grey])
        shares[:, grey < 50] = np.array([0.1, 0.9, 0.0])[:, None]
        shares[:, grey > 200] = np.array([0.3, 0.0, 0.7])[:, None]
        return None, shares.astype(np.float32)


@pytest.fixture
def painted() -> Nnunet:
    return Nnunet(Painted(), "painted", LABELS)


def frame() -> Frame:
    """Two arteries and one aorta."""
    pixels = np.full((60, 80), 120, dtype=np.uint8)
    pixels[10:14, 10:30] = 20
    pixels[40:44, 10:30] = 20
    pixels[20:35, 50:70] = 240
    return Frame(pixels)


def clicks(*points: tuple[float, float, int]) -> Prompt:
    rows = np.array(points, dtype=np.float64).reshape(-1, 3)
    return Prompt(points_xy=rows[:, :2], point_labels=rows[:, 2].astype(np.int64))


def test_a_name_is_answered_by_its_parts_and_an_unknown_one_by_nothing(painted: Nnunet) -> None:
    embedding = painted.embed(frame())
    arteries = painted.predict(embedding, Prompt(concept="coronary artery"))
    assert [int(part.bitmap.sum()) for part in arteries] == [80, 80]
    assert arteries[0].score == pytest.approx(0.9, abs=1e-3)
    (aorta,) = painted.predict(embedding, Prompt(concept="aorta"))
    assert int(aorta.bitmap.sum()) == 300
    assert aorta.score == pytest.approx(0.7, abs=1e-3)
    assert painted.predict(embedding, Prompt(concept="ventricle")) == ()
    assert painted.n_embeds == 1


@pytest.mark.parametrize(
    ("prompt", "area_px"),
    [
        (Prompt(box_xyxy=(0.0, 0.0, 79.0, 59.0)), 460),
        (Prompt(box_xyxy=(10.0, 10.0, 19.0, 50.0)), 80),
        (Prompt(box_xyxy=(0.0, 0.0, 79.0, 59.0), concept="aorta"), 300),
        (clicks((12.0, 11.0, 1)), 80),
        (clicks((12.0, 11.0, 1), (60.0, 25.0, 1)), 380),
        (clicks((12.0, 11.0, 1), (60.0, 25.0, 1), (12.0, 41.0, 0)), 380),
        (clicks((12.0, 11.0, 1), (13.0, 12.0, 0)), 0),
        (clicks((75.0, 5.0, 1)), 0),
        (Prompt(box_xyxy=(0.0, 0.0, 79.0, 59.0), concept="ventricle"), 460),
    ],
    ids=[
        *("all", "cut by the box", "one label in the box", "a click", "two clicks"),
        *("a negative click elsewhere", "both in one part", "on nothing", "an unknown name"),
    ],
)
def test_a_box_and_clicks_choose_among_what_was_found(
    painted: Nnunet, prompt: Prompt, area_px: int
) -> None:
    (found,) = painted.predict(painted.embed(frame()), prompt)
    assert int(found.bitmap.sum()) == area_px
    assert found.score > 0.5 if area_px else found.score == 0


def test_a_folder_without_a_model_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"settings.json is missing.*segmenter.nnunet_weights"):
        open_nnunet(tmp_path)


def test_results_without_a_finished_fold_are_refused(tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["--trained", str(tmp_path), "--out", str(tmp_path / "out")])
    assert told.exit_code == ModelError.exit_code
    assert "finish `nnUNetv2_train" in told.output
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("nnunetv2", reason="the extra `nnunet` is not installed")
    folder = tmp_path_factory.mktemp("results") / "nnUNetTrainer__nnUNetPlans__2d"
    save_trained(folder, ("0", "1"))
    return folder


@pytest.fixture
def taken_over(trained: Path, tmp_path: Path) -> Path:
    told = CliRunner().invoke(main, ["--trained", str(trained), "--out", str(tmp_path / "ct")])
    assert told.exit_code == 0, told.output
    return tmp_path / "ct"


def test_folds_are_taken_over_and_answer_as_nnunet_does(trained: Path, taken_over: Path) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    theirs = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    # What nnU-Net wrote is unpickled here, because the test wrote it a moment ago.
    theirs.initialize_from_trained_model_folder(str(trained), (0, 1))
    picture = np.random.default_rng(0).integers(0, 255, (70, 50)).astype(np.uint8)
    expected, shares = theirs.predict_single_npy_array(
        picture[None, None].astype(np.float32), {"spacing": (999, 1, 1)}, None, None, True
    )
    segmenter = open_nnunet(taken_over)
    assert segmenter.model_id == "ct"
    assert len(np.unique(expected)) > 1
    # nnU-Net computes in half precision: where two labels are equally likely it takes the first.
    likeliest = np.sort(shares[:, 0], axis=0)
    is_clear = likeliest[-1] > likeliest[-2]
    assert is_clear.mean() > 0.9
    whole, embedding = (0.0, 0.0, 49.0, 69.0), segmenter.embed(Frame(picture))
    for concept, is_right in (
        (None, expected[0] > 0),
        ("coronary artery", expected[0] == 1),
        ("aorta", expected[0] == 2),
    ):
        (found,) = segmenter.predict(embedding, Prompt(box_xyxy=whole, concept=concept))
        assert np.array_equal(found.bitmap[is_clear], is_right[is_clear])


def _changed(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (PLANS, {"image_reader_writer": "SimpleITKIO"}, "1 channels of SimpleITKIO, expected"),
        (DATASET, {"channel_names": {"0": "R", "1": "G"}}, "2 channels of NaturalImage2DIO"),
        (DATASET, {"labels": {"background": 0, "whole": [1, 2]}}, "labels are regions"),
        (PLANS, {"configurations": {"3d_fullres": {}}}, "have no configuration 2d"),
        (DATASET, {"labels": {"background": 0, "aorta": 1}}, "does not fit the plans"),
    ],
    ids=["volumes", "colours", "regions", "no 2d", "another number of labels"],
)
def test_models_of_other_pictures_are_refused(
    taken_over: Path, name: str, values: dict[str, object], message: str
) -> None:
    _changed(taken_over / name, **values)
    with pytest.raises(ModelError, match=message):
        open_nnunet(taken_over)


def test_plans_may_not_name_any_class(taken_over: Path) -> None:
    plans = json.loads((taken_over / PLANS).read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "os.system"
    (taken_over / PLANS).write_text(json.dumps(plans))
    with pytest.raises(ModelError, match=r"name os.system, expected classes of"):
        open_nnunet(taken_over)


def test_weights_that_do_not_fit_or_are_not_finite_are_refused(taken_over: Path) -> None:
    path = taken_over / weights_of("1")
    state = load_file(path)
    name = next(iter(state))
    save_file({key: value for key, value in state.items() if key != name}, path)
    with pytest.raises(ModelError, match="does not fit the plans"):
        open_nnunet(taken_over)
    save_file({**state, name: state[name] * float("nan")}, path)
    with pytest.raises(ModelError, match="holds NaN"):
        open_nnunet(taken_over)
    path.write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        open_nnunet(taken_over)


class _Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this was run",)


@pytest.mark.parametrize(
    "content",
    [{"network_weights": {}, "init_args": {}, "logging": _Runs()}, {"network_weights": {}}, [1]],
    ids=["code", "half", "a list"],
)
def test_a_checkpoint_that_is_not_nnunets_is_refused(
    trained: Path, tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fold_0").mkdir()
    for name in (PLANS, DATASET):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    save_checkpoint(tmp_path / "fold_0", content)
    with pytest.raises(ModelError, match="fold_0"):
        convert(tmp_path, tmp_path / "out")
    assert "this was run" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_without_nnunet_the_extra_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nnunetv2.inference.predict_from_raw_data", None)
    with pytest.raises(ConfigError, match=r"angioloop\[nnunet\]"):
        convert(trained, tmp_path / "out")
