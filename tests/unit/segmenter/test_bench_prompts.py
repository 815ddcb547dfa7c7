"""The bench of prompts at the tiny size: one embedding for ten prompts; nothing here is timed."""

from pathlib import Path

import pytest

from bench import prompts as bench
from segmenter.prompts import WindowConfig
from segmenter.teacher import load_teacher


def test_a_quick_run_needs_one_embedding_for_ten_prompts_and_leaves_the_real_size_out() -> None:
    figures = bench.measure(quick=True)
    assert set(bench.AIMS) | {"prompt_ms_gpu", "second_over_first_tiny"} <= set(figures)
    assert figures["embeds_per_10_prompts"] == 1
    assert figures["second_over_first_tiny"] is not None
    assert figures["second_over_first_real_size"] is None


def test_a_second_look_would_show_as_a_second_embedding(base: Path) -> None:
    windows = WindowConfig(whole_image=True, zoom=True)
    teacher = load_teacher(base.parent, None, base=base, windows=windows)
    assert bench.costs(teacher, 2)[2] == 2


def test_where_memory_is_short_the_real_size_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "REAL_GB", 1e6)
    assert bench.real_size() is None
    assert "not tried" in capsys.readouterr().out
