"""The bench of the functions, in small counts: what must hold at any speed."""

import pytest

from bench import serving


def test_no_broken_request_no_swap_and_no_kill_goes_wrong() -> None:
    if not (serving.BASE / "model.safetensors").is_file():
        pytest.skip("conf/tiny-base holds no weights")
    figures = serving.measure(quick=True)
    assert (figures["fuzz_requests"], figures["fuzz_bad_answers"]) == (200, 0)
    assert (figures["swap_requests"], figures["swap_failures"]) == (100, 0)
    assert set(serving.AIMS) <= set(figures)
    assert figures["kill_s"] is not None
