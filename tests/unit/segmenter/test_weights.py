import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from casebook.errors import AccessError, ModelError
from segmenter.weights import (
    SIZES,
    WEIGHTS,
    base_sha256,
    convert,
    load_base,
    main,
    refused,
    save_base,
)


def test_a_saved_base_comes_back_in_half_precision(base: Path, tmp_path: Path) -> None:
    model = load_base(base)
    files = save_base(model, tmp_path)
    again = load_base(tmp_path)
    for (name, one), other in zip(
        model.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert files[WEIGHTS] == base_sha256(tmp_path)
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing", "1 weights are missing"), ("extra", "1 unknown"), ("shape", "has shape")],
)
def test_a_base_that_does_not_fit_is_refused(
    base: Path, tmp_path: Path, damage: str, message: str
) -> None:
    state = load_file(base / WEIGHTS)
    key = "image.backbone.vision_backbone.trunk.pos_embed"
    if damage == "missing":
        del state[key]
    elif damage == "extra":
        state["image.more"] = torch.zeros(1)
    else:
        state[key] = torch.zeros(1, 2)
    save_file(state, tmp_path / WEIGHTS)
    (tmp_path / SIZES).write_bytes((base / SIZES).read_bytes())
    with pytest.raises(ModelError, match=message):
        load_base(tmp_path)


def test_a_base_with_a_weight_that_is_not_finite_is_refused(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "broken")
    state = load_file(base / WEIGHTS)
    name = sorted(state)[0]
    state[name] = torch.full_like(state[name], float("nan"))
    save_file(state, tmp_path / "broken" / WEIGHTS)
    with pytest.raises(ModelError, match=f"{name} holds NaN or infinity; restore it"):
        load_base(tmp_path / "broken")


def test_sizes_that_are_no_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / SIZES).write_text('{"side": 3}')
    with pytest.raises(ModelError, match="not a base's sizes"):
        load_base(tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sam3.pt").write_bytes(b"PK nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        convert(tmp_path / "sam3.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_make_weights_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == ModelError.exit_code
    assert result.output.count("\n") == 1
    assert "vocabulary" in result.output


def test_a_refusal_tells_where_to_ask_for_access() -> None:
    assert isinstance(refused(), AccessError)
    assert "https://huggingface.co/facebook/sam3" in str(refused())
