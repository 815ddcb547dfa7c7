"""A small SAM 3 with random weights, in memory and as a base folder."""

from pathlib import Path

import pytest
import torch

from segmenter.sam3 import Sam3, Sam3Config, build
from segmenter.weights import save_base

SMALL = Sam3Config(
    side_px=64,
    vit_width=32,
    vit_depth=2,
    vit_heads=2,
    vit_global_blocks=(1,),
    vit_window=4,
    vit_pretrain_px=64,
    width=32,
    feedforward=32,
    encoder_layers=1,
    decoder_layers=1,
    queries=4,
    text_width=32,
    text_heads=2,
    text_layers=1,
    memory_width=16,
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    save_base(build(SMALL), folder)
    return folder


@pytest.fixture
def small() -> Sam3:
    torch.manual_seed(0)
    return build(SMALL)
