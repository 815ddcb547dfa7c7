"""`casebook check` and `casebook diff`: is what trains kept apart, and how do rounds differ.

Results go to stdout; leaks make the command fail.
"""

from pathlib import Path

import click

from angio.commands.options import home_option, json_option, open_catalogue
from casebook.content import content_of
from casebook.differences import RoundDiff, diff_rounds
from casebook.documents import Document
from casebook.errors import DataError
from casebook.home import Home
from casebook.leaks import LeakReport, find_leaks, rounds_of


class RoundCheck(Document):
    """A round's hashes, in short."""

    round: int
    content_sha256: str
    frames: int
    changed: tuple[str, ...]


class CheckReport(Document):
    """Everything `casebook check` found."""

    leaks: LeakReport
    rounds: tuple[RoundCheck, ...]


@click.command()
@home_option
@json_option
def check(home: Path | None, as_json: bool) -> None:
    """Check that nothing that trains is scored, and that rounds' frames are as selected.

    Looks at patients and pixels of the catalogue and of every round together. Fails with exit code
    3 when there is a leak or a changed frame.

    Example: casebook check --json
    """
    open_catalogue(home)
    place = Home.resolve(home)
    leaks = find_leaks(place)
    contents = [content_of(folder) for folder in rounds_of(place)]
    rounds = tuple(
        RoundCheck(
            round=one.round, content_sha256=one.content_sha256, frames=len(one.frames),
            changed=one.changed,
        )
        for one in contents
    )  # fmt: skip
    if as_json:
        click.echo(CheckReport(leaks=leaks, rounds=rounds).model_dump_json(indent=1))
    else:
        click.echo(
            f"{leaks.cases} cases of {leaks.patients} patients, {len(rounds)} rounds: "
            f"{len(leaks.leaks)} leaks"
        )
        for one in rounds:
            click.echo(
                f"round {one.round:02d}  {one.frames} frames, content {one.content_sha256[:16]}"
            )
        for leak in leaks.leaks:
            click.echo(f"leak: {leak}", err=True)
    changed = [name for one in rounds for name in one.changed]
    if leaks.leaks:
        raise DataError(
            f"{len(leaks.leaks)} leaks between what trains and what is scored; correct the splits, "
            "import again, and select the rounds concerned anew"
        )
    if changed:
        raise DataError(
            f"{len(changed)} frames are missing or changed since they were selected "
            f"({', '.join(changed[:3])} …); import them again"
        )


@click.command()
@click.argument("first", type=click.IntRange(min=1))
@click.argument("second", type=click.IntRange(min=1))
@home_option
@json_option
def diff(first: int, second: int, home: Path | None, as_json: bool) -> None:
    """Compare two rounds: cases, labels, masks, origins, models.

    Example: casebook diff 1 2 --json
    """
    open_catalogue(home)
    found = diff_rounds(Home.resolve(home), first, second)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
    else:
        _tell(found)


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items()) or "none"


def _tell(found: RoundDiff) -> None:
    for side in found.sides:
        click.echo(
            f"round {side.round:02d}  {side.cases} cases, {side.annotated} annotated, "
            f"{side.masks} masks, content {side.content_sha256[:16]}"
        )
        click.echo(f"          origins: {_counts(side.origins)}")
        click.echo(f"          proposed by: {_counts(side.proposed_by)}")
        click.echo(f"          trained: {', '.join(side.trained) or 'none'}")
    click.echo(
        f"cases: {len(found.only_first)} only in the first, {len(found.only_second)} only in the "
        f"second, {len(found.both)} in both; frozen cases "
        f"{'the same' if found.frozen_equal else 'DIFFER'}"
    )
    for word, names in (("added", found.labels_added), ("removed", found.labels_removed)):
        if names:
            click.echo(f"labels {word}: {', '.join(names)}")
    click.echo(f"masks in both: {found.unchanged} the same, {len(found.changes)} changed")
    for one in found.changes:
        overlap = f" IoU {one.iou:.3f}" if one.iou is not None else ""
        origins = " → ".join(origin or "-" for origin in one.origins)
        click.echo(f"  {one.file_name}  {one.label}: {one.change}{overlap} ({origins})")
