"""Two models' kept scores against one another, with scores written by hand."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from angio.evaluation import CaseEvaluation, SegmentScore
from angio.naming import Naming
from casebook.documents import write_document
from casebook.errors import DataError, StateError
from casebook.home import Home
from trainer.cli import main
from trainer.comparison import Comparison, Contrast, compare
from trainer.scores import ModelScores, SplitScores

DIGEST = "f15abdefaf0f" + "0" * 52


def scored(value: float, name: str, *, said: str | None = None) -> CaseEvaluation:
    naming = Naming(by="names", label=said) if said else None
    segment = SegmentScore(label="mid", iou_box=value, dice=value, cldice=value, named=naming)
    return CaseEvaluation(
        case_id=name, vessel="RCA", segments=(segment,), iou_box=value, dice=value, cldice=value
    )


def keep(home: Home, model_id: str, *cases: CaseEvaluation, digest: str = DIGEST) -> None:
    write_document(
        home.root / "evaluations" / f"{model_id}-{digest[:12]}.json",
        ModelScores(
            model_id=model_id,
            cases_sha256=digest,
            val=SplitScores(cases=tuple(case for case in cases if case.case_id == "c0")),
            test=SplitScores(cases=cases),
        ),
    )


def of(found: Comparison, figure: str, split: str = "test") -> Contrast:
    (row,) = (
        row
        for row in found.contrasts
        if (row.split, row.figure, row.vessel) == (split, figure, None)
    )
    return row


def test_gains_are_paired_by_case_and_only_of_figures_both_have(tmp_path: Path) -> None:
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    keep(one, "round-01-a", *(scored(0.5 + i / 10, f"c{i}", said="mid") for i in range(3)))
    # The same cases in another order, each 0.1 worse: the gain is sure though the ranges overlap.
    others = [scored(0.4 + i / 10, f"c{i}", said="distal") for i in (2, 0, 1)]
    keep(two, "round-01-b", *others)
    found = compare(one, "round-01-a", two, "round-01-b")
    row = of(found, "iou_box")
    assert (row.gain.mean, row.gain.low, row.gain.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (row.model.mean, row.other.mean, row.gain.n) == (
        pytest.approx(0.6), pytest.approx(0.5), 3,
    )  # fmt: skip
    assert row.verdict == "better"
    assert (of(found, "named").model.mean, of(found, "named").other.mean) == (1.0, 0.0)
    assert {row.figure for row in found.contrasts} == {"iou_box", "dice", "cldice", "named"}
    assert [row.vessel for row in found.contrasts if row.vessel] == ["RCA", "RCA"]
    back = compare(two, "round-01-b", one, "round-01-a")
    assert of(back, "iou_box").verdict == "worse"


def test_a_model_that_cannot_name_has_no_contrast_in_names(tmp_path: Path) -> None:
    home = Home(tmp_path)
    keep(home, "a", scored(0.5, "c0", said="mid"), scored(0.7, "c1", said="mid"))
    keep(home, "b", scored(0.6, "c0"), scored(0.6, "c1"))
    found = compare(home, "a", home, "b")
    assert of(found, "iou_box").verdict == "not told apart"
    assert naming_rows(found) == []


def naming_rows(found: Comparison) -> list[Contrast]:
    return [row for row in found.contrasts if row.figure == "named"]


def test_what_does_not_compare_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    keep(home, "a", scored(0.5, "c0"))
    keep(home, "b", scored(0.5, "c0"), digest="0" * 64)
    with pytest.raises(DataError, match="scored on different cases or another truth"):
        compare(home, "a", home, "b")
    with pytest.raises(DataError, match="with itself"):
        compare(home, "a", home, "a")
    with pytest.raises(StateError, match="scored are a, b"):
        compare(home, "a", home, "nobody")


def test_the_command_prints_each_figure_and_json(tmp_path: Path) -> None:
    home = Home(tmp_path)
    keep(home, "a", scored(0.7, "c0"))
    keep(home, "b", scored(0.5, "c0"))
    options = ["compare", "--model", "a", "--other", "b", "--home", str(home.root)]
    told = CliRunner().invoke(main, options)
    assert told.exit_code == 0, told.output
    assert "test iou_box" in told.output
    assert "0.700 against 0.500, gain +0.200 [+0.200, +0.200] on 1 cases: better" in told.output
    as_json = CliRunner().invoke(main, [*options, "--json"])
    assert json.loads(as_json.output)["model"] == "a"
    nobody = CliRunner().invoke(main, [*options[:4], "nobody", *options[5:]])
    assert nobody.exit_code == 6, nobody.output
