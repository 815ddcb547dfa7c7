"""`casebook measure` and `casebook agree`: our QCA on experts' masks, alone and beside the lab's.

Results go to stdout, progress to stderr.
"""

from pathlib import Path
from typing import Literal

import click
from pydantic import Field

from angio.agreement import PAIRS_MIN, Agreement, agreement, bland_altman_svg
from angio.commands.options import bar, home_option, json_option, open_catalogue
from angio.measurements import GIVEN, Measurement, measure_case, measured_by_the_lab
from casebook.documents import Document, write_bytes, write_document
from casebook.errors import DataError

_UNITS = {
    "mld_mm": "mm",
    "interpolated_rvd_mm": "mm",
    "diameter_stenosis_pct": "points",
    "lesion_length_mm": "mm",
}


class CaseMeasurements(Document):
    """The answer of `casebook measure`."""

    measurements: tuple[Measurement, ...]


class AgreementReport(Document):
    """The answer of `casebook agree`, and what `--out` keeps of it."""

    schema_: Literal[1] = Field(default=1, alias="schema", serialization_alias="schema")
    against: str
    cases: int
    agreements: tuple[Agreement, ...]
    without: dict[str, str]
    """Measurements that could not be compared, and why."""
    measurements: tuple[Measurement, ...]
    """Every lesion, with both values or the reason it has none."""


def _lines(found: Measurement) -> list[str]:
    if found.lesion is None:
        return [f"{found.label}: not measured: {found.reason}"]
    lesion = found.lesion
    reference, length = f"{lesion.rvd_px:.1f} px", f"{lesion.length_px:.0f} px"
    if lesion.spacing is not None and lesion.rvd_mm is not None and lesion.length_mm is not None:
        reference = f"{lesion.rvd_mm:.2f} mm ({lesion.spacing.source})"
        length = f"{lesion.length_mm:.1f} mm ({lesion.spacing.source})"
    area = "" if lesion.area_stenosis_pct is None else f"{lesion.area_stenosis_pct:.0f} %"
    x, y = lesion.mld_xy
    return [
        f"{found.label}: {lesion.stenosis_pct:.0f} % stenosis",
        f"  minimal diameter  {lesion.mld_text} at x {x:.0f}, y {y:.0f} px",
        f"  reference there   {reference}",
        f"  lesion length     {length}",
        f"  area stenosis     {area} (lumen taken as a circle)",
        f"  measured on       {found.pixels} pixels",
        *(f"  the lab's {name:<21} {value:g}" for name, value in found.given.items()),
    ]


@click.command()
@click.argument("case_id")
@home_option
@json_option
def measure(case_id: str, home: Path | None, as_json: bool) -> None:
    """Measure the segments that experts drew on a case: minimal diameter, stenosis, length.

    Millimetres need the case's pixel spacing, whose source is shown; without one it is px.

    Example: casebook measure c0a1b2c3d4e5f6
    """
    catalogue = open_catalogue(home)
    found = measure_case(catalogue, catalogue.get(case_id))
    if as_json:
        click.echo(CaseMeasurements(measurements=found).model_dump_json(indent=1))
    else:
        for one in found:
            click.echo("\n".join(_lines(one)))
    if all(one.lesion is None for one in found):
        raise DataError(f"case {case_id}: nothing could be measured; the reasons are above")


def _values(found: tuple[Measurement, ...], name: str) -> tuple[list[float], list[float]]:
    pairs = [
        (ours, one.given[name])
        for one in found
        if name in one.given and (ours := one.ours(name)) is not None
    ]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def _report(against: str, cases: int, found: tuple[Measurement, ...]) -> AgreementReport:
    agreements, without = [], {}
    for name in GIVEN:
        ours, theirs = _values(found, name)
        if len(ours) < PAIRS_MIN:
            without[name] = f"{len(ours)} pairs; expected at least {PAIRS_MIN}"
        else:
            agreements.append(agreement(name, _UNITS[name], ours, theirs))
    return AgreementReport(
        against=against,
        cases=cases,
        agreements=tuple(agreements),
        without=without,
        measurements=found,
    )


def _show(report: AgreementReport) -> None:
    head = f"{'ours − theirs':<24}{'n':>5}{'bias [95 %]':>28}{'limits of agreement':>24}"
    click.echo(f"{head}{'mean |.|':>10}{'r':>7}{'ICC':>7}")
    for one in report.agreements:
        bias = f"{one.bias.value:+.3f} [{one.bias.low:+.3f}, {one.bias.high:+.3f}]"
        limits = f"{one.lower_limit.value:+.3f} … {one.upper_limit.value:+.3f}"
        r = "-" if one.pearson_r is None else f"{one.pearson_r:.3f}"
        icc = "-" if one.icc is None else f"{one.icc:.3f}"
        click.echo(
            f"{one.name:<24}{one.n:>5}{bias:>28}{limits:>24}{one.mean_abs:>10.3f}{r:>7}{icc:>7}"
        )
    for name, why in report.without.items():
        click.echo(f"{name}: not compared: {why}")


@click.command()
@home_option
@click.option(
    "--against", type=click.Choice(["contours"]), default="contours", show_default=True,
    help="Whose values: those of the lab's contour files and CSV.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="Also write agreement.json and a Bland–Altman plot for every measurement there.",
)  # fmt: skip
@json_option
def agree(home: Path | None, against: str, out: Path | None, as_json: bool) -> None:
    """Compare our QCA on experts' masks with the lab's own measurements.

    Bias and limits after Bland and Altman, with 95 % intervals; lesions we could not measure are
    counted. Millimetres are compared only where a case has its pixel spacing.

    Example: casebook agree --out agreement/
    """
    catalogue = open_catalogue(home)
    cases = list(measured_by_the_lab(catalogue))
    found: list[Measurement] = []
    with bar("cases") as progress:
        for done, case in enumerate(cases, start=1):
            found += [one for one in measure_case(catalogue, case) if one.given]
            progress(done, len(cases))
    report = _report(against, len(cases), tuple(found))
    if not report.agreements:
        raise DataError(
            f"{len(cases)} cases with the lab's own measurements give fewer than {PAIRS_MIN} pairs "
            "of anything; import cases with contours or MLD_mm and diameter_stenosis_pct columns"
        )
    if out is not None:
        write_document(out / "agreement.json", report)
        for table in report.agreements:
            ours, theirs = _values(report.measurements, table.name)
            plot = bland_altman_svg(table, ours, theirs, title=table.name)
            write_bytes(out / f"{table.name}.svg", plot.encode())
    if as_json:
        click.echo(report.model_dump_json(indent=1))
    else:
        _show(report)
    for one in found:
        if one.lesion is None:
            click.echo(f"not measured: {one.case_id} {one.label}: {one.reason}", err=True)
