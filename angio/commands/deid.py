"""`casebook deid`: look at what was held as possible text, and say what it is.

Results go to stdout. Shows crops by their path and never prints what a source was called.
"""

import json
from pathlib import Path

import click

from angio.commands.options import home_option, json_option
from angio.letters import Box
from angio.review import Outcome, crop_paths, read_held, rule, suspected
from casebook.errors import ConfigError
from casebook.home import Home


@click.group()
def deid() -> None:
    """Rule on frames that may carry burned-in text."""


@deid.command()
@home_option
@json_option
def review(home: Path | None, as_json: bool) -> None:
    """List the cases that wait for a ruling, with a picture of every suspected box.

    The pictures lie in private/ and may show a name.

    Example: casebook deid review --json
    """
    place = Home.resolve(home)
    waiting = read_held(place)
    if as_json:
        told = [
            {
                "held_id": held.held_id,
                "height_px": held.height_px,
                "width_px": held.width_px,
                "boxes_xyxy": held.boxes_xyxy,
                "reasons": held.reasons,
                "crop_paths": [str(path) for path in crop_paths(place, held)],
                "at": held.at.isoformat(),
            }
            for held in waiting
        ]
        click.echo(json.dumps(told))
        return
    for held in waiting:
        click.echo(f"{held.held_id}  {held.width_px}×{held.height_px} px")
        shown = zip(held.boxes_xyxy, held.reasons, crop_paths(place, held), strict=True)
        for box, reason, path in shown:
            click.echo(f"  {','.join(map(str, box))}  {reason}  {path}")
    click.echo(
        f"{len(waiting)} cases are held; rule with `casebook deid rule`"
        if waiting
        else "nothing is held"
    )


def _box(text: str) -> Box:
    try:
        x1, y1, x2, y2 = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--mask {text!r}; expected x1,y1,x2,y2 in px, inclusive") from None
    return x1, y1, x2, y2


@deid.command("rule")
@click.argument("case")
@click.option("--clean", is_flag=True, help="There is no text, or none about anybody.")
@click.option(
    "--mask", "masks", multiple=True, metavar="X1,Y1,X2,Y2",
    help="Paint this box over; repeat for several.",
)  # fmt: skip
@click.option("--mask-found", is_flag=True, help="Paint over every suspected box.")
@click.option("--refuse", is_flag=True, help="The case is not to be used.")
@click.option("--reason", default="", help="For the audit; never who the patient is.")
@home_option
def rule_(
    case: str,
    clean: bool,
    masks: tuple[str, ...],
    mask_found: bool,
    refuse: bool,
    reason: str,
    home: Path | None,
) -> None:
    """Say what a held case is; the next import of the same source follows it.

    Example: casebook deid rule h3f2a90c41b7d --mask 4,4,210,22 --reason "name in the corner"

    Example: casebook deid rule h3f2a90c41b7d --clean --reason "edge of the collimator"
    """
    if sum([clean, bool(masks), mask_found, refuse]) != 1:
        raise ConfigError("expected exactly one of --clean, --mask, --mask-found and --refuse")
    place = Home.resolve(home)
    boxes = tuple(_box(text) for text in masks)
    if mask_found:
        boxes = suspected(place, case)
    outcome: Outcome = "clean" if clean else "refuse" if refuse else "mask"
    ruling = rule(place, case, outcome, boxes=boxes, reason=reason)
    click.echo(f"{ruling.held_id}: {ruling.outcome}; import the source again")
