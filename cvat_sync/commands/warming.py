"""`cvatsync prewarm`: the interactor looks at an annotator's next frames beforehand."""

import time
from pathlib import Path

import click

from casebook.catalogue import Catalogue
from casebook.rounds import RoundFolder
from cvat_sync.commands.options import as_json, dry_run, in_round, workspace
from cvat_sync.prewarm import AHEAD, Coming, Warmer, follow, plan_prewarm
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import read_access

_IDLE = "no frame to show: no job of the round is in progress in CVAT, or those are at their end"


@click.command()
@in_round
@dry_run
@as_json
@click.option("--function", "url", required=True, help="Address of the interactor.")
@click.option("--ahead", default=AHEAD, show_default=True, type=click.IntRange(1, 16))
@click.option(
    "--follow",
    "every_s",
    type=click.FloatRange(min=0.5),
    help="Look at the jobs again every so many seconds, until interrupted.",
)
def prewarm(
    number: int,
    home: Path | None,
    conf: Path,
    dry_run: bool,
    as_json: bool,
    url: str,
    ahead: int,
    every_s: float | None,
) -> None:
    """Have the interactor look at the next frames of every job that is under way.

    For a model whose first answer on an image is slow: the next click finds it ready. Each frame is
    shown once; keep --ahead below `kept_images` of serving.yaml.

    Example: cvatsync prewarm --round 2 --function http://127.0.0.1:32768 --follow 5
    """
    place = workspace(home)
    folder = RoundFolder(place, number)
    pushed, access = need_pushed(folder), read_access()
    warmer = Warmer(url, Catalogue(place))
    from cvat_sync.gateway import CvatGateway

    with CvatGateway(access) as gateway:

        def look() -> tuple[Coming, ...]:
            return plan_prewarm(pushed, gateway, ahead)

        if dry_run:
            coming = look()
            if not coming:
                click.echo(_IDLE, err=True)
            for entry in coming:
                told = f"job {entry.job_id}: {', '.join(entry.files)}"
                click.echo(entry.model_dump_json() if as_json else told)
            return

        def wait() -> bool:
            if every_s is None:
                return False
            time.sleep(every_s)
            return True

        def tell(name: str) -> None:
            click.echo(f"shown {name}", err=True)

        try:
            follow(look, warmer, tell, wait)
        except KeyboardInterrupt:
            click.echo("stopped", err=True)
        if not warmer.shown:
            click.echo(_IDLE, err=True)
        if as_json:
            click.echo(f'{{"shown": {len(warmer.shown)}}}')
