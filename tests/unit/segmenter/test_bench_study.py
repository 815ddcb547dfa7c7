"""The study of the teacher: a quick run of one model, and the page that is kept; no timing."""

import math

import numpy as np
import pytest

from bench import study
from bench.harness import RESULTS, BenchResult
from bench.phantom_cases import FIRST_TEST, FIRST_TRAIN, PhantomCase, phantom_cases
from bench.study_page import MODELS, PAGE, page


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return list(phantom_cases([FIRST_TRAIN]))


def test_those_who_are_scored_never_train_and_are_the_same_each_time() -> None:
    assert FIRST_TRAIN + study.TRAIN_PATIENTS <= FIRST_TEST
    once, again = (next(phantom_cases([FIRST_TEST])) for _ in range(2))
    assert once.frame.digest == again.frame.digest
    assert np.array_equal(once.bitmap, again.bitmap)


def test_a_frame_teaches_the_analysed_segment_by_prompts_and_the_others_by_name(
    cases: list[PhantomCase],
) -> None:
    sample = study.sample_of(cases[0])
    own, *by_name = sample.masks
    named = study.names()
    assert own.label == named[cases[0].code]
    assert own.prompted
    assert not own.named
    assert own.targets.code == cases[0].code
    assert not any(mask.prompted for mask in by_name)
    (whole,) = (mask for mask in by_name if mask.label == own.label)
    assert np.array_equal(whole.bitmap, cases[0].codes == cases[0].code)
    assert np.array_equal(own.bitmap, cases[0].bitmap)
    assert len(by_name) > 1
    assert not set(sample.absent) & {mask.label for mask in sample.masks}
    assert len(named) == 14


def test_what_is_usual_is_said_without_looking(cases: list[PhantomCase]) -> None:
    told = study.usual(cases, cases)
    truth = [case.lesion.stenosis_pct for case in cases]
    apart = np.ptp(truth)
    assert apart > 1
    assert all(0 <= error < 1.5 * apart for error in told["ds_error"])
    assert len(set(told["ds_error"])) > 1
    commonest = max(np.unique([case.code for case in cases], return_counts=True)[1])
    assert sum(told["head_right"]) == commonest
    assert all(error < 5 for error in told["mld_error"])


def test_an_exemplar_is_of_the_nearest_view_that_shows_the_segment(
    cases: list[PhantomCase],
) -> None:
    case = cases[0]
    same, far = study.exemplar_for(case, case.code, cases), study.exemplar_for(case, 0, cases[2:])
    (box,) = same
    ys, xs = np.nonzero(case.codes == case.code)
    assert box == (xs.min(), ys.min(), xs.max(), ys.max())
    assert far != same
    assert study.exemplar_for(case, 99, cases) == ()


def test_a_quick_run_of_one_model_gives_its_figures_with_intervals() -> None:
    figures = study.one_model("lora", quick=True)
    for name in ("iou_box", "iou_click_5", "head_right", "ds_error", "mld_error"):
        low, mean, high = (figures[f"lora_{name}{end}"] for end in ("_low", "", "_high"))
        assert low is not None
        assert mean is not None
        assert high is not None
        assert low <= mean <= high
    assert figures["lora_trained_share"] is not None
    assert 0 < figures["lora_trained_share"] < 1
    assert {"doubt_said", "doubt_asked_again"} <= set(figures)


def test_a_quick_run_of_names_gives_their_figures_with_and_without_exemplars() -> None:
    figures = study.one_naming("names", quick=True)
    for name in ("concept_iou", "concept_right", "exemplar_concept_iou"):
        low, mean, high = (figures[f"names_{name}{end}"] for end in ("_low", "", "_high"))
        assert None not in (low, mean, high)
    assert study.NAMINGS["names_text"].view_in_text
    assert study.NAMINGS["names_view"].view_embedding


def test_the_page_is_that_of_the_figures_kept() -> None:
    if not (RESULTS / "study.json").exists():
        pytest.skip("no result is kept; `python -m bench.study --keep` measures it")
    kept = BenchResult.model_validate_json((RESULTS / "study.json").read_bytes())
    assert PAGE.read_text(encoding="utf-8") == page(kept)
    for part in MODELS:
        value = kept.figures[f"{part}_iou_box"]
        assert value is not None
        assert math.isfinite(value)


def test_what_was_not_measured_is_a_dash() -> None:
    nothing = BenchResult(bench="study", figures={}, aims={}, met=None, device="here", commit="abc")
    rows = [line for line in page(nothing).splitlines() if line.startswith("| the base alone")]
    assert rows
    assert all("–" in row for row in rows)
