"""A small SAM 3 with random weights, in memory and as a base folder."""

from pathlib import Path

import pytest
import torch

from segmenter.sam3 import SMALLEST, Sam3, build
from segmenter.weights import save_base


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base")
    save_base(build(SMALLEST), folder)
    return folder


@pytest.fixture
def small() -> Sam3:
    torch.manual_seed(0)
    return build(SMALLEST)
