"""`python -m export precisions`: float16 and int8 for a released bundle, where they are of use.

Training side: needs the case book to calibrate and to judge on.
"""

from pathlib import Path

import click

from casebook.catalogue import Catalogue
from casebook.errors import ModelError
from casebook.home import Home
from casebook.registry import Registry
from export.precision import Precisions
from export.quantisation import add_precisions
from export.release import parity_prompts
from export.syllabus import read_syllabus

FRAMES = 16
"""Frames calibrated on, and frames judged on, at most."""


def precisions_of(home: Home, version: str) -> Precisions:
    """Try every arithmetic for a bundle of the workspace.

    Raises:
        ModelError: the bundle is missing or damaged.
        StateError: no round has annotations.
        DataError: there is no frame to calibrate or to judge on.
    """
    syllabus, catalogue = read_syllabus(home, neighbours=0, unannotated=0), Catalogue(home)
    return add_precisions(
        home.models / "released" / version,
        parity_prompts(catalogue, syllabus.pages, FRAMES),
        parity_prompts(catalogue, syllabus.val, FRAMES),
    )


@click.command(epilog="Example: python -m export precisions")
@click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
@click.option("--version", help="A bundle in models/released; else the released one.")
@click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
def precisions(home: Path | None, version: str | None, as_json: bool) -> None:
    """Make float16 and int8 graphs of a bundle, measure them, ship those that are of use.

    A signed bundle must be signed again. What was refused, and why, stands in precisions.json.
    """
    workspace = Home.resolve(home)
    registry = Registry(workspace)
    chosen = version or registry.released()
    if chosen is None:
        raise ModelError(f"no student is released in {workspace.models}; run `make distil` first")
    registry.folder(chosen)  # refuses what is no id
    found = precisions_of(workspace, chosen)
    if as_json:
        click.echo(found.model_dump_json(indent=1))
        return
    for trial in found.trials:
        taken = "shipped" if trial.shipped else "refused"
        click.echo(f"{trial.precision}: {taken}: {trial.reason}")
        click.echo(f"  {trial.size_mb:.1f} MB, float32 {trial.size_fp32_mb:.1f} MB")
