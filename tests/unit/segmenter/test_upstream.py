"""What makes sam3 run without CUDA, and keeps its hands off where there is CUDA."""

import pytest
import torch

from segmenter import upstream
from segmenter.upstream import cuda_means_cpu


def test_without_a_gpu_what_asks_for_cuda_gets_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with cuda_means_cpu():
        made = torch.arange(3, device="cuda")
        assert made.device.type == made.cuda().device.type == "cpu"


def test_with_a_gpu_nothing_is_redirected_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda _: asked.append("cuda"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    with cuda_means_cpu():
        torch.zeros(1).cuda()
    upstream._patch_for_cpu()
    assert asked == ["cuda"], "the request never reached torch"
    assert torch.Tensor.pin_memory is pinned
