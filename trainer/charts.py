"""Plots as inline SVG, in colours that colour-blind readers tell apart. Knows no disk.

Palette: Okabe and Ito, Color Universal Design (2008); marks differ in shape as well as in colour.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.scores import Mean
from trainer.summary import RoundReport

BLUE, ORANGE, GREEN, PINK, GREY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#6b6b6b"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "angioloop",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def _svg(figure: Figure, title: str) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = stream.getvalue()
    start = text.index("<svg")
    return text[start:].replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _figure(width: float = 6.4, height: float = 3.6) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.add_subplot()


def _legend(axes: Axes) -> None:
    """Below the plot, so that the plot keeps its width on a telephone."""
    axes.figure.legend(
        *axes.get_legend_handles_labels(),
        fontsize=10,
        frameon=False,
        ncols=2,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
    )


def _series(axes: Axes, points: Mapping[int, Mean], name: str, color: str, mark: str) -> None:
    rounds = sorted(points)
    means = [points[number].mean for number in rounds]
    spread = [
        [points[number].mean - points[number].low for number in rounds],
        [points[number].high - points[number].mean for number in rounds],
    ]
    axes.errorbar(
        rounds, means, yerr=spread, label=name, color=color, marker=mark, capsize=3, linewidth=1.6
    )


def iou_chart(
    reports: Sequence[RoundReport],
    plan: Mapping[int, tuple[float, float]],
    control: Mean | None,
) -> str:
    """Agreement by round on the frozen test cases, the plan's range behind it."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        shown = [report.round for report in reports]
        for index, number in enumerate(number for number in plan if number in shown):
            low, high = plan[number]
            axes.fill_between(
                [number - 0.3, number + 0.3],
                low,
                high,
                color=GREY,
                alpha=0.2,
                linewidth=0,
                label="plan, IoU with box" if index == 0 else None,
            )
        for name, label, color, mark in (
            ("iou_box", "IoU with box", BLUE, "o"),
            ("iou_auto", "IoU automatic", ORANGE, "s"),
            ("dice", "Dice with box", GREEN, "^"),
            ("frangi_dice", "Frangi Dice, same box", PINK, "D"),
        ):
            points = {report.round: report.test[name] for report in reports if name in report.test}
            if points:
                _series(axes, points, label, color, mark)
        if control is not None:
            axes.axhline(
                control.mean,
                color=GREY,
                linestyle="--",
                linewidth=1.2,
                label="control, IoU with box",
            )
        axes.set_xticks(shown, [f"round {number}" for number in shown])
        axes.set_xlim(min(shown) - 0.5, max(shown) + 0.5)
        axes.set_ylim(0, 1)
        axes.set_ylabel("mean over test cases")
        _legend(axes)
        return _svg(figure, "Agreement by round")


def hours_chart(reports: Sequence[RoundReport]) -> str:
    """Hours of annotation by round, beside those by hand."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=2.8)
        timed = [(report.round, report.effort) for report in reports if report.effort]
        for position, (_, effort) in enumerate(timed):
            spent = effort.seconds / 3600
            axes.bar(
                position - 0.2,
                spent + effort.hours_saved,
                0.38,
                color=GREY,
                hatch="//",
                edgecolor="white",
                label="by hand" if position == 0 else None,
            )
            axes.bar(
                position + 0.2,
                spent,
                0.38,
                color=BLUE,
                label="with proposals" if position == 0 else None,
            )
        axes.set_xticks(range(len(timed)), [f"round {number}" for number, _ in timed])
        axes.set_ylabel("hours")
        _legend(axes)
        return _svg(figure, "Annotation hours by round")


def gain_chart(reports: Sequence[RoundReport]) -> str:
    """Candidate minus incumbent by round, validation and test."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=2.8)
        for name, shift, color, mark in (
            ("validation (decides)", -0.08, BLUE, "o"),
            ("test (reported)", 0.08, ORANGE, "s"),
        ):
            gains = [report.gain_val if shift < 0 else report.gain_test for report in reports]
            places = [report.round + shift for report in reports]
            axes.errorbar(
                places,
                [gain.mean for gain in gains],
                yerr=[
                    [gain.mean - gain.low for gain in gains],
                    [gain.high - gain.mean for gain in gains],
                ],
                fmt=mark,
                color=color,
                capsize=3,
                label=name,
            )
        axes.axhline(0, color="#333333", linewidth=0.8)
        shown = [report.round for report in reports]
        axes.set_xticks(shown, [f"round {number}" for number in shown])
        axes.set_xlim(min(shown) - 0.5, max(shown) + 0.5)
        axes.set_ylabel("IoU gain over incumbent")
        _legend(axes)
        return _svg(figure, "Gain of each candidate")


def groups_chart(report: RoundReport) -> str:
    """IoU with box by vessel and label: candidate beside incumbent."""
    vessels = [group.with_(name=f"{group.name}, all") for group in report.vessels]
    groups = [*vessels, *report.labels]
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=0.9 + 0.42 * len(groups))
        for place, group in enumerate(reversed(groups)):
            for mean, shift, color, mark in (
                (group.candidate, 0.13, BLUE, "o"),
                (group.incumbent, -0.13, ORANGE, "s"),
            ):
                axes.errorbar(
                    mean.mean,
                    place + shift,
                    xerr=[[mean.mean - mean.low], [mean.high - mean.mean]],
                    fmt=mark,
                    color=color,
                    capsize=2,
                    label=None if place else ("candidate" if shift > 0 else "incumbent"),
                )
        names = [f"{group.name} ({group.candidate.n})" for group in reversed(groups)]
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(0, 1)
        axes.set_xlabel("IoU with box, test cases (number of cases)")
        _legend(axes)
        return _svg(figure, "Agreement by vessel and label")


def cases_chart(report: RoundReport) -> str:
    """IoU of every test case, best first."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=2.8)
        values = [case.iou_box for case in report.cases]
        axes.bar(range(1, len(values) + 1), values, color=BLUE, width=0.85)
        mean = report.test["iou_box"].mean
        axes.axhline(mean, color=ORANGE, linestyle="--", label=f"mean {mean:.3f}")
        axes.set_ylim(0, 1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("test case, best first")
        axes.set_ylabel("IoU with box")
        axes.legend(fontsize=9, frameon=False, loc="upper right")
        return _svg(figure, "Agreement of every test case")


def loss_chart(steps: Sequence[float], losses: Sequence[float]) -> str:
    """The training loss by step."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(height=2.6)
        axes.plot(steps, losses, color=BLUE, linewidth=1.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("step")
        axes.set_ylabel("training loss")
        axes.set_ylim(bottom=0)
        return _svg(figure, "Learning curve")
