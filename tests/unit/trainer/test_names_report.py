"""What the reports say of segments called by their name."""

from datetime import UTC, datetime

from trainer.breakdown import WAYS, Confusion, Names
from trainer.overview import expectations
from trainer.page import render
from trainer.scores import Mean
from trainer.summary import RoundReport

MEAN = Mean(mean=0.5, low=0.4, high=0.6, n=8)
FIGURES = {"iou_box": MEAN, "dice": MEAN, "cldice": MEAN}
NAMES = Names(
    by="names",
    right=Mean(mean=0.75, low=0.41, high=0.93, n=8),
    silent=1,
    commonest=0.625,
    confusions=(
        Confusion(label="PDA", said="PDA", count=2),
        Confusion(label="mid RCA", said=None, count=1),
        Confusion(label="mid RCA", said="PDA", count=1),
        Confusion(label="mid RCA", said="mid RCA", count=4),
    ),
)


def report(number: int, names: Names | None) -> RoundReport:
    return RoundReport(
        round=number, created=datetime.now(UTC), cases_new=1, cases_total=1, rejected=0,
        masks_by_origin={"human": 1}, candidate="c", incumbent="i", init_from="i", promoted=True,
        reasons=("for the test",), gain_val=MEAN, gain_test=MEAN, test=FIGURES,
        test_incumbent=FIGURES, val=FIGURES, train_steps=1, train_seconds=1.0, learning_rate=0.1,
        base="b", names=names,
    )  # fmt: skip


def page(found: RoundReport) -> str:
    return render("report.html.j2", report=found, charts={"cases": ""}, gallery=(), ways=WAYS)


def test_the_overview_shows_the_last_round_that_was_asked_beside_the_plan() -> None:
    (row,) = (
        row
        for row in expectations((report(1, NAMES), report(2, None)))
        if row.name == "CASS classification"
    )
    assert (row.expected, row.low, row.high, row.value) == ("85–95 %", 0.85, 0.95, 0.75)
    assert row.ours == (
        "75% [41%, 93%] of 8 segments of round 1, by asking for each name; 1 called nothing; the "
        "commonest label alone would get 62%"
    )
    (never,) = (
        row for row in expectations((report(1, None),)) if row.name == "CASS classification"
    )
    assert (never.ours, never.value) == ("–", None)


def test_the_page_has_the_share_and_a_row_of_confusions_for_each_label() -> None:
    text = page(report(1, NAMES))
    assert "Segments called by their name" in text
    rows = [line for line in text.splitlines() if line.startswith("<tr><td>mid RCA</td>")]
    (row,) = rows
    cells = [cell.split(">")[-1] for cell in row.replace("</strong>", "").split("</td>")]
    assert cells[:4] == ["mid RCA", "4", "1", "1"], "called mid RCA, PDA, nothing"
    assert "Segments called by their name" not in page(report(1, None))


def test_a_model_that_says_nothing_gets_no_empty_table() -> None:
    silent = NAMES.with_(
        right=Mean(mean=0.0, low=0.0, high=0.3, n=8),
        silent=8,
        confusions=[Confusion(label="PDA", said=None, count=8)],
    )
    text = page(report(1, silent))
    assert "0.000" in text
    assert "a column for what it says" not in text
