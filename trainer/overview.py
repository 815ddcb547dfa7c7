"""All rounds together: rounds/report.json and rounds/report.html, with the plan's figures beside.

Reads reports; knows no model and computes no score.
"""

from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from casebook.documents import Document, read_document, write_bytes, write_document
from casebook.errors import StateError
from casebook.home import Home
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from trainer.breakdown import WAYS
from trainer.charts import gain_chart, hours_chart, iou_chart
from trainer.page import render
from trainer.requests import round_folders
from trainer.scores import Mean
from trainer.summary import RoundReport

CONTROL = "control.json"
GALLERY = "gallery.json"


class Key(Document):
    """One mask of an overlay that has several; they are numbered in this order, from 1."""

    label: str
    colour: str
    """As CSS writes it."""
    iou: float


class Picture(Document):
    """One overlay of a gallery."""

    title: str
    uri: str
    """The PNG itself, as a data URI."""
    iou: float
    note: str
    keys: tuple[Key, ...] = ()
    """Empty where there is one mask."""


class Gallery(Document):
    """Best, median and worst test case of a round's candidate, and those that failed."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    round: int
    pictures: tuple[Picture, ...]


class ControlResult(Document):
    """What the rounds brought beyond training longer on round 1's data."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    model_id: str
    """Continued from round 1's candidate on round 1's data only."""
    compared: str
    """The teacher in use after the last round."""
    rounds: tuple[int, ...]
    """Rounds whose number of steps and settings it repeated."""
    steps: int
    control: Mean
    """IoU with box on the frozen test cases."""
    rounds_model: Mean
    gain: Mean
    """Per test case, the rounds' model minus the control."""


class Expectation(Document):
    """One figure the plan expects, ours beside it."""

    name: str
    expected: str
    ours: str
    low: float | None = None
    high: float | None = None
    value: float | None = None


class LineageEntry(Document):
    """One model of the workspace."""

    model_id: str
    kind: str
    architecture: str
    parents: tuple[str, ...]
    round: int | None
    n_params: int
    n_trainable: int
    is_promoted: bool


class Overview(Document):
    """Every round of a workspace."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    created: datetime
    rounds: tuple[RoundReport, ...]
    control: ControlResult | None = None
    expectations: tuple[Expectation, ...]
    lineage: tuple[LineageEntry, ...]
    promoted: str | None
    released: str | None
    hours_saved: float
    is_effort_simulated: bool


PLAN_IOU = {1: (0.50, 0.60), 2: (0.65, 0.75), 3: (0.75, 0.85)}
"""The plan's lesion segment IoU, prompted by its box."""
PLAN_FASTER_PCT = {2: (45.0, 65.0), 3: (65.0, 85.0)}
"""The plan's saving of annotation time, in percent of 5 minutes a case."""
_ELSEWHERE = (("time a frame, student", "< 100 ms", "python -m bench.student"),)
PLAN_NAMED = (0.85, 0.95)
"""The plan's share of segments called by their CASS name."""


def write_overview(home: Home) -> Overview:
    """Write the report over all rounds.

    Raises:
        StateError: no round has a report yet.
    """
    overview = read_overview(home)
    folder = home.root / "rounds"
    plan = PLAN_IOU if overview.expectations else {}
    charts = {"iou": iou_chart(overview.rounds, plan, _control_iou(overview))}
    if any(report.effort for report in overview.rounds):
        charts["hours"] = hours_chart(overview.rounds)
    charts["gain"] = gain_chart(overview.rounds)
    page = render("overview.html.j2", overview=overview, charts=charts, gallery=_last_gallery(home))
    write_bytes(folder / "report.html", page.encode())
    write_document(folder / "report.json", overview)
    return overview


def _last_gallery(home: Home) -> tuple[Picture, ...]:
    """The overlays of the last round that has some."""
    for folder in reversed(round_folders(home)):
        if folder.has(GALLERY):
            return read_document(folder.file(GALLERY), Gallery).pictures
    return ()


def read_overview(home: Home) -> Overview:
    """The figures of all rounds that have a report."""
    reports = tuple(
        read_document(folder.file("report.json"), RoundReport)
        for folder in round_folders(home)
        if folder.has("report.json")
    )
    if not reports:
        raise StateError("no round has a report yet. Run `make train ROUND=1` first.")
    path = home.root / "rounds" / CONTROL
    registry = Registry(home)
    promoted = registry.promoted()
    efforts = [report.effort for report in reports if report.effort]
    return Overview(
        created=datetime.now(UTC),
        rounds=reports,
        control=read_document(path, ControlResult) if path.exists() else None,
        expectations=expectations(reports) if _is_planned(home, reports[-1].round) else (),
        lineage=tuple(
            LineageEntry(
                model_id=card.model_id,
                kind=card.kind,
                architecture=card.architecture,
                parents=card.parents,
                round=card.round,
                n_params=card.n_params,
                n_trainable=card.n_trainable,
                is_promoted=card.model_id == promoted,
            )
            for card in registry.cards()
        ),
        promoted=promoted,
        released=registry.released(),
        hours_saved=sum(effort.hours_saved for effort in efforts),
        is_effort_simulated=any(effort.is_simulated for effort in efforts),
    )


def expectations(reports: tuple[RoundReport, ...]) -> tuple[Expectation, ...]:
    """The plan's figures with ours beside."""
    by_round = {report.round: report for report in reports}
    rows = []
    for number, (low, high) in PLAN_IOU.items():
        report = by_round.get(number)
        found = report.test.get("iou_box") if report else None
        rows.append(
            Expectation(
                name=f"IoU with box, round {number}",
                expected=f"{low:.2f}–{high:.2f}",
                ours=f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" if found else "–",
                low=low,
                high=high,
                value=found.mean if found else None,
            )
        )
    for number, (low, high) in PLAN_FASTER_PCT.items():
        report = by_round.get(number)
        effort = report.effort if report else None
        faster = _faster_pct(effort.seconds_per_case) if effort and effort.cases else None
        note = " (simulated)" if effort and effort.is_simulated else ""
        rows.append(
            Expectation(
                name=f"annotation faster, round {number}",
                expected=f"{low:.0f}–{high:.0f} %",
                ours=f"{faster:.0f} %{note}" if faster is not None else "–",
                low=low,
                high=high,
                value=faster,
            )
        )
    dice = reports[-1].test.get("tree_dice")
    rows.append(
        Expectation(
            name="Dice of the vessel tree, by its name",
            expected="> 0.80",
            ours=f"{dice.mean:.3f} [{dice.low:.3f}, {dice.high:.3f}]" if dice else "–",
            low=0.80,
            value=dice.mean if dice else None,
        )
    )
    rows += [_named(reports), _stenosis_error(reports)]
    rows += [
        Expectation(name=name, expected=expected, ours=ours) for name, expected, ours in _ELSEWHERE
    ]
    return tuple(rows)


def _is_planned(home: Home, number: int) -> bool:
    """Whether the plan speaks of this workspace's labels: it is about lesions."""
    return bool(RoundFolder(home, number).manifest().labels.of_role("lesion"))


def _named(reports: tuple[RoundReport, ...]) -> Expectation:
    """How often the last candidate that was asked calls a segment by its CASS name."""
    low, high = PLAN_NAMED
    row = Expectation(name="CASS classification", expected="85–95 %", ours="–", low=low, high=high)
    found = [(report.round, report.names) for report in reports if report.names]
    if not found:
        return row
    number, names = found[-1]
    right = names.right
    return row.with_(
        value=right.mean,
        ours=f"{right.mean:.0%} [{right.low:.0%}, {right.high:.0%}] of {right.n} segments of round "
        f"{number}, by {WAYS[names.by]}; {names.silent} called nothing; the commonest label alone "
        f"would get {names.commonest:.0%}",
    )


def _stenosis_error(reports: tuple[RoundReport, ...]) -> Expectation:
    """Diameter stenosis in the model's masks against that in the experts', last measured."""
    found = [
        (report.round, table)
        for report in reports
        for table in report.qca.tables
        if table.unit == "points"
    ]
    row = Expectation(name="stenosis error", expected="±5–10 points", ours="–", high=10.0)
    if not found:
        return row
    number, table = found[-1]
    return row.with_(
        value=table.mean_abs,
        ours=f"{table.mean_abs:.1f} points on average, bias {table.bias.value:+.1f}, in "
        f"{table.n} masks of round {number}",
    )


def _faster_pct(seconds_per_case: float) -> float:
    from casebook.corrections import BASELINE_S_PER_CASE

    return 100 * (1 - seconds_per_case / BASELINE_S_PER_CASE)


def _control_iou(overview: Overview) -> Mean | None:
    return overview.control.control if overview.control else None
