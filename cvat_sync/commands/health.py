"""`cvatsync open` and `cvatsync doctor`: where the work is, and whether CVAT can be used."""

import sys
from contextlib import closing
from pathlib import Path

import click

from casebook.home import Home
from casebook.rounds import RoundFolder
from cvat_sync import doctor as checks
from cvat_sync.commands.options import answer, any_round, as_json, in_home, in_round, workspace
from cvat_sync.opening import opening
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import read_access, read_exchange


@click.command(name="open")
@in_round
@as_json
@click.option("--browser", is_flag=True, help="Open the project in a browser too.")
def open_command(number: int, home: Path | None, conf: Path, as_json: bool, browser: bool) -> None:
    """Print the address of each job of a round, with its state.

    Example: cvatsync open --round 2 --browser
    """
    pushed = need_pushed(RoundFolder(workspace(home), number))
    config, access = read_exchange(conf), read_access()
    from cvat_sync.gateway import CvatGateway

    with CvatGateway(access) as gateway:
        found = opening(pushed, gateway, config.parallel)
    answer(found, found.lines(), as_json)
    if browser:
        click.launch(found.project_url)


@click.command()
@in_home
@any_round
@as_json
def doctor(home: Path | None, number: int | None, as_json: bool) -> None:
    """Check settings, server, account, functions, labels and webhook; exit code 1 if one fails.

    Each line is ok, warn or fail, and says what to do. With --round the labels of the round's
    project are compared with the schema, and its webhook is tried by a delivery.

    Example: cvatsync doctor --round 2
    """
    place = Home.resolve(home)
    folder = RoundFolder(place, number) if number is not None else None
    findings = [checks.check_settings()]
    if findings[0].level == "fail":
        findings += [checks.check_worker(place), checks.check_workspace(place)]
    else:
        from cvat_sync.gateway import CvatGateway

        access = read_access()
        with closing(CvatGateway(access)) as gateway:
            findings += checks.examine(place, folder, gateway, gateway, access.organisation)
    diagnosis = checks.Diagnosis(findings=tuple(findings))
    answer(diagnosis, diagnosis.lines(), as_json)
    if not diagnosis.is_well:
        sys.exit(1)
