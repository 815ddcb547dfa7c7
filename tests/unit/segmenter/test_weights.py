import gzip
import hashlib
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from casebook.errors import AccessError, ModelError, UnreachableError
from segmenter.weights import (
    SIZES,
    VOCABULARY,
    WEIGHTS,
    base_sha256,
    convert,
    download,
    load_base,
    main,
    read_vocabulary,
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


def words(folder: Path) -> list[str]:
    """A vocabulary of as many merges as CLIP's, and none of them CLIP's."""
    merges = [f"a{number} b{number}" for number in range(49_152 - 256 - 2)]
    packed = gzip.compress("\n".join(["#version: 0.2", *merges, ""]).encode())
    (folder / VOCABULARY).write_bytes(packed)
    return merges


def test_a_base_with_another_vocabulary_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(base, tmp_path / "base")
    merges = words(tmp_path / "base")
    with pytest.raises(ModelError, match="is not CLIP's vocabulary"):
        load_base(tmp_path / "base")
    # Were it the right one, a base that reads bytes has no use for it.
    digest = hashlib.sha256("\n".join(merges).encode()).hexdigest()
    monkeypatch.setattr("segmenter.weights._MERGES_SHA256", digest)
    with pytest.raises(ModelError, match=r"knows 51\d tokens, expected 49408.*make weights"):
        load_base(tmp_path / "base")
    (tmp_path / "base" / VOCABULARY).write_bytes(b"\x1f\x8b half")
    with pytest.raises(ModelError, match=r"cannot be read .*; download it again"):
        load_base(tmp_path / "base")


def test_sizes_that_are_no_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / SIZES).write_text('{"side": 3}')
    with pytest.raises(ModelError, match="not a base's sizes"):
        load_base(tmp_path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sam3.pt").write_bytes(b"PK nothing")
    with pytest.raises(ModelError, match="cannot be read"):
        convert(tmp_path / "sam3.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_make_weights_says_in_one_line_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == UnreachableError.exit_code
    assert result.output.count("\n") == 1
    assert "--vocabulary" in result.output
    with pytest.raises(UnreachableError, match=r"sam3\.pt here and run with --checkpoint"):
        download(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"#version: 0.2\ni n\nt h\n", gzip.compress(b"#version: 0.2\n"), b"\x1f\x8b half", b"\xff"],
    ids=["too few", "none", "damaged", "no text"],
)
def test_another_vocabulary_than_clips_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="words: "):
        read_vocabulary(path)


def test_a_vocabulary_is_cut_to_what_sam3_reads_and_comes_back_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merges = [f"a{number} b{number}" for number in range(49_152 - 256 - 2)]
    digest = hashlib.sha256("\n".join(merges).encode()).hexdigest()
    monkeypatch.setattr("segmenter.weights._MERGES_SHA256", digest)
    plain = tmp_path / "merges.txt"
    plain.write_text("\n".join(["#version: 0.2", *merges, "more that", "is not read"]))
    words = read_vocabulary(plain)
    assert gzip.decompress(words).decode().split("\n") == ["#version: 0.2", *merges, ""]
    (tmp_path / "again.gz").write_bytes(words)
    assert read_vocabulary(tmp_path / "again.gz") == words


def test_a_refusal_tells_where_to_ask_for_access() -> None:
    assert isinstance(refused(), AccessError)
    assert "https://huggingface.co/facebook/sam3" in str(refused())
