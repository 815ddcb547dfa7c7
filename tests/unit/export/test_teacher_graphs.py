"""The teacher's own graphs answer as torch does, and torch is left as it was."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from casebook.documents import read_document, sha256_of_file
from casebook.errors import ModelError, StateError
from export import teacher_graphs
from export.__main__ import main
from export.teacher_graphs import (
    DECODER,
    ENCODER,
    MANIFEST,
    TeacherGraphs,
    export_teacher,
    real_rotation,
)
from segmenter.sam3 import SMALLEST, Sam3, build
from tests.unit.export.workshop import unchecked


@pytest.fixture(scope="module")
def model() -> Sam3:
    torch.manual_seed(4)
    return build(SMALLEST, matching=False)


@pytest.fixture(scope="module")
def folder(model: Sam3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teacher")
    with unchecked():
        export_teacher(model, "smallest", place, "a licence")
    return place


def test_rotation_in_real_numbers_is_the_same_and_only_for_a_while(model: Sam3) -> None:
    pixels = torch.randn(1, 3, SMALLEST.side_px, SMALLEST.side_px)
    with torch.no_grad():
        before = model.encode(pixels).embedding
        with real_rotation(model) as changed:
            during = model.encode(pixels).embedding
        after = model.encode(pixels).embedding
    assert changed == SMALLEST.vit_depth
    assert torch.allclose(before, during, atol=1e-5)
    assert torch.equal(before, after)


def test_the_graphs_answer_as_torch_does_whatever_the_prompt(model: Sam3, folder: Path) -> None:
    made = read_document(folder / MANIFEST, TeacherGraphs)
    assert made.max_abs <= 1e-3
    assert made.mask_iou >= 0.999
    assert made.files == {name: sha256_of_file(folder / name) for name in (ENCODER, DECODER)}
    assert {one.version for one in onnx.load(str(folder / ENCODER)).opset_import} == {made.opset}
    encoder = onnxruntime.InferenceSession(str(folder / ENCODER))
    decoder = onnxruntime.InferenceSession(str(folder / DECODER))
    side, mask_side = made.side_px, made.mask_side_px
    pixels = torch.randn(1, 3, side, side)
    points = torch.rand(1, 7, 2) * side
    labels = torch.tensor([[2, 3, 1, 1, 0, 0, -1]], dtype=torch.int32)
    previous, has = torch.randn(1, 1, mask_side, mask_side), torch.tensor([True])
    with torch.no_grad():
        features = model.encode(pixels)
        logits, quality = model.decode(features, points, labels, previous, has)
    found = encoder.run(None, {"pixels": pixels.numpy()})
    names = [one.name for one in decoder.get_inputs()]
    given = (*found, points.numpy(), labels.numpy(), previous.numpy(), has.numpy())
    answer = decoder.run(None, dict(zip(names, given, strict=True)))
    reach = max(1.0, float(logits.abs().max()))
    assert float(np.abs(answer[0] - logits.numpy()).max()) / reach < 1e-3
    assert float(np.abs(answer[1] - quality.numpy()).max()) < 1e-3


def test_one_click_has_the_best_of_three_masks_where_the_teacher_gives_it(
    model: Sam3, folder: Path, tmp_path: Path
) -> None:
    with unchecked():
        export_teacher(model, "smallest", tmp_path, "a licence", multimask=True)
    side, mask_side = SMALLEST.side_px, model.config.mask_side
    generator = torch.Generator().manual_seed(2)
    none, has = torch.zeros(1, 1, mask_side, mask_side), torch.tensor([False])
    label = torch.ones(1, 1, dtype=torch.int32)
    single, several = (
        onnxruntime.InferenceSession(str(place / DECODER)) for place in (folder, tmp_path)
    )
    names = [one.name for one in several.get_inputs()]

    def answer(graph: onnxruntime.InferenceSession, *given: torch.Tensor) -> np.ndarray:
        values = [one.numpy() for one in given]
        logits: np.ndarray = graph.run(None, dict(zip(names, values, strict=True)))[0]
        return logits

    for _ in range(6):
        with torch.no_grad():
            features = model.encode(torch.randn(1, 3, side, side, generator=generator))
            click = torch.rand(1, 1, 2, generator=generator) * side
            masks, quality = model.candidates(features, click, label)
        best = 1 + int(quality[0, 1:].argmax())
        found = answer(several, *features, click, label, none, has)
        np.testing.assert_allclose(found, masks[:, best].numpy(), atol=1e-3)
        found = answer(single, *features, click, label, none, has)
        np.testing.assert_allclose(found, masks[:, 0].numpy(), atol=1e-3)
        with torch.no_grad():  # with an earlier answer a click leaves no doubt
            corrected, _ = model.candidates(features, click, label, none, torch.tensor([True]))
        found = answer(several, *features, click, label, none, torch.tensor([True]))
        np.testing.assert_allclose(found, corrected[:, 0].numpy(), atol=1e-3)


def test_graphs_that_answer_otherwise_get_no_manifest(
    model: Sam3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_graphs, "MAX_ABS", -1.0)
    (tmp_path / MANIFEST).write_text("of an earlier export")
    with unchecked(), pytest.raises(ModelError, match="do not use"):
        export_teacher(model, "smallest", tmp_path, "a licence")
    assert not (tmp_path / MANIFEST).exists()


def test_without_a_promoted_teacher_the_command_says_what_to_run(tmp_path: Path) -> None:
    given = ["teacher", "--home", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, given)
    assert done.exit_code == StateError.exit_code
    assert "no teacher is promoted" in done.output
