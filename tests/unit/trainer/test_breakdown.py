"""Groups, clicks and measurements of scores that were written by hand."""

import pytest

from angio.clicks import MAX_CLICKS
from angio.evaluation import CaseEvaluation, Measures, SegmentScore
from angio.naming import Naming
from trainer.breakdown import by_case, by_degree, by_segment, clicks, measured, names
from trainer.scores import SplitScores


def segment(
    label: str,
    iou: float,
    *,
    curve: tuple[float, ...] = (),
    pct: tuple[float, float | None] | None = None,
) -> SegmentScore:
    """`pct`: the expert's stenosis, and the model's unless it was refused."""
    expert, model = pct if pct else (None, None)
    return SegmentScore(
        label=label, iou_box=iou, dice=iou, cldice=iou, clicks=curve,
        by_expert=None if expert is None else Measures(stenosis_pct=expert, mld_px=5.0),
        by_model=None if model is None else Measures(stenosis_pct=model, mld_px=4.0),
    )  # fmt: skip


def case(name: str, *segments: SegmentScore, **more: str | float | None) -> CaseEvaluation:
    iou = sum(one.iou_box for one in segments) / len(segments)
    return CaseEvaluation(
        case_id=name, segments=segments, iou_box=iou, dice=iou, cldice=iou,
        **more,
    )  # fmt: skip


def scores(*cases: CaseEvaluation) -> SplitScores:
    return SplitScores(cases=cases)


def test_cases_are_grouped_by_what_they_have_and_compared_with_the_incumbents() -> None:
    ours = scores(
        case("a", segment("mid", 0.8), view="RAO caudal", stenosis_pct=69.9),
        case("b", segment("mid", 0.6), view="LAO cranial", stenosis_pct=70.0),
        case("c", segment("mid", 0.4), view="RAO caudal", stenosis_pct=12.0),
        case("d", segment("mid", 0.1)),
    )
    theirs = scores(*(case(name, segment("mid", 0.2)) for name in "abc"))
    views = by_case(ours, theirs, lambda one: one.view)
    assert [(g.name, g.candidate.n, g.candidate.mean, g.incumbent.mean) for g in views] == [
        ("LAO cranial", 1, 0.6, pytest.approx(0.2)),
        ("RAO caudal", 2, pytest.approx(0.6), pytest.approx(0.2)),
    ]
    assert [g.name for g in by_degree(ours, theirs)] == [
        "below 50 %", "50 to 69 %", "70 % and more",
    ]  # fmt: skip
    assert by_case(ours, theirs, lambda one: one.phase) == ()


def test_segments_of_one_case_count_each_for_their_own_label() -> None:
    ours = scores(
        case("a", segment("mid", 0.8), segment("ostium", 0.2)), case("b", segment("mid", 0.4))
    )
    theirs = scores(case("a", segment("mid", 0.5), segment("ostium", 0.5)))
    found = {group.name: group for group in by_segment(ours, theirs)}
    assert found["mid"].candidate.mean == pytest.approx(0.6)
    assert (found["mid"].candidate.n, found["mid"].incumbent.n) == (2, 1)
    assert found["ostium"].candidate.mean == pytest.approx(0.2)


def test_clicks_that_never_suffice_count_as_the_limit_and_lower_the_share() -> None:
    ours = scores(
        case("a", segment("mid", 0.5, curve=(0.5, 0.85, 0.95))),
        case("b", segment("mid", 0.5, curve=(0.1,) * MAX_CLICKS)),
    )
    at_80, at_90 = clicks(ours, scores(case("a", segment("mid", 0.5, curve=(0.91,)))))
    assert (at_80.iou, at_80.candidate.mean, at_80.candidate_reached) == (0.8, 6.0, 0.5)
    assert (at_90.candidate.mean, at_90.incumbent_reached) == (6.5, 1.0)
    assert at_90.incumbent is not None
    assert at_90.incumbent.mean == 1.0
    assert clicks(scores(case("a", segment("mid", 0.5))), ours) == ()
    old = clicks(ours, scores(case("a", segment("mid", 0.5))))
    assert old[0].incumbent is None


def test_measurements_agree_with_a_known_bias_and_refusals_are_counted() -> None:
    pairs = [(50.0, 52.0), (30.0, 32.0), (70.0, 72.0), (10.0, None)]
    found = measured(
        scores(*(case(f"c{n}", segment("mid", 0.5, pct=pair)) for n, pair in enumerate(pairs)))
    )
    assert (found.segments, found.refused) == (4, 1)
    tables = {(table.name, table.unit): table for table in found.tables}
    assert tables["diameter stenosis", "points"].bias.value == pytest.approx(2.0)
    assert tables["minimal lumen diameter", "px"].bias.value == pytest.approx(-1.0)
    assert ("minimal lumen diameter", "mm") not in tables, "no case had a spacing"
    assert measured(scores(case("a", segment("mid", 0.5)))).segments == 0


def test_names_are_counted_against_the_experts_and_silence_is_wrong() -> None:
    called = [("mid", "mid"), ("mid", "mid"), ("mid", None), ("distal", "mid")]
    found = names(
        scores(
            *(
                case(f"c{number}", segment(label, 0.8).with_(named=Naming(by="names", label=said)))
                for number, (label, said) in enumerate(called)
            ),
            case("old", segment("mid", 0.8)),
        )
    )
    assert found is not None
    assert (found.by, found.right.n, found.right.mean) == ("names", 4, 0.5)
    # Wilson, 2 of 4, z = 1.96: 0.5 ± 0.35 (Newcombe, Stat Med 17 (1998) 857, method 3).
    assert (found.right.low, found.right.high) == pytest.approx((0.150, 0.850), abs=1e-3)
    assert (found.silent, found.commonest) == (1, 0.75)
    assert [(one.label, one.said, one.count) for one in found.confusions] == [
        ("distal", "mid", 1), ("mid", None, 1), ("mid", "mid", 2),
    ]  # fmt: skip
    assert names(scores(case("old", segment("mid", 0.8)))) is None
