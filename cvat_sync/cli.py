"""The `cvatsync` command: push and pull rounds, see where they stand.

Results go to stdout, plans and progress to stderr.
"""

import json
import sys
from contextlib import closing
from pathlib import Path

import click

from casebook.annotations import read_annotations
from casebook.corrections import Corrections, Effort
from casebook.documents import read_document
from casebook.errors import StateError
from casebook.home import Home, locked
from casebook.rounds import RoundFolder
from cvat_sync import effort as efforts
from cvat_sync import status as statuses
from cvat_sync.commands.options import Bar, Commands
from cvat_sync.commands.options import answer as _answer
from cvat_sync.commands.options import as_json as _json
from cvat_sync.commands.options import in_round as _round
from cvat_sync.commands.options import show as _show
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import ExchangeConfig, read_access, read_exchange


@click.group(cls=Commands)
def main() -> None:
    """Rounds to CVAT and back."""


@main.command()
@_round
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--add-labels", is_flag=True, help="Add labels an existing project lacks.")
def push(number: int, home: Path | None, conf: Path, dry_run: bool, add_labels: bool) -> None:
    """Bring a round's frames and proposals into CVAT; a killed push resumes.

    Sends for the selection and the proposals first, if they are absent.

    Example: cvatsync push --round 2
    """
    folder = RoundFolder(Home.resolve(home), number)
    if folder.has("pushed.json"):
        pushed = need_pushed(folder)
        click.echo(f"round {number:02d} is pushed already: {len(pushed.tasks)} tasks")
        return
    if folder.has("annotations.coco.json") or number == 1:
        raise StateError(
            f"round {number:02d} is not annotated in CVAT: its annotations came with the cases. "
            f"Train it with `make train ROUND={number}`"
        )
    config = read_exchange(conf)
    from cvat_sync.dispatch import missing_steps, request_steps

    steps = missing_steps(folder)
    if steps and dry_run:
        click.echo(f"round {number:02d}: would ask a worker to {' and '.join(steps)}, then plan")
        return
    if dry_run:
        click.echo("\n".join(_plan(folder, config).lines()))
        return
    access = read_access()
    from cvat_sync.gateway import CvatGateway, retrying
    from cvat_sync.push import push as push_round

    bar = Bar("push")
    try:
        with (
            locked(folder.file(".push.lock"), f"a push of round {number:02d}"),
            CvatGateway(access) as gateway,
        ):
            if steps:
                request_steps(folder, conf, _show)
            plan = _plan(folder, config)
            click.echo("\n".join(plan.lines()), err=True)
            pushed = push_round(
                folder,
                plan,
                folder.manifest(),
                gateway,
                url=access.url,
                retrying=retrying,
                parallel=config.parallel,
                add_labels=add_labels,
                progress=bar,
            )
    finally:
        bar.close()
    click.echo(
        f"round {number:02d} pushed: {len(pushed.tasks)} tasks, {plan.n_frames} frames, "
        f"{plan.n_masks} masks → {access.url}/projects/{pushed.project_id}"
    )


def _plan(folder: RoundFolder, config: ExchangeConfig) -> PushPlan:
    proposals = read_annotations(folder.file("proposals.coco.json"))
    return plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)


@main.command()
@_round
@click.option(
    "--allow-incomplete",
    is_flag=True,
    help="Seal the round without the jobs that are not completed and the masks that are damaged.",
)
def pull(number: int, home: Path | None, conf: Path, allow_incomplete: bool) -> None:
    """Bring the experts' corrections back; only completed jobs count.

    Example: cvatsync pull --round 2
    """
    folder = RoundFolder(Home.resolve(home), number)
    if folder.has("annotations.coco.json"):
        click.echo(f"round {number:02d} is pulled already")
        return
    pushed = need_pushed(folder)
    config, access = read_exchange(conf), read_access()
    from cvat_sync.gateway import CvatGateway
    from cvat_sync.pull import pull as pull_round

    bar = Bar("pull")
    try:
        with (
            locked(folder.file(".pull.lock"), f"a pull of round {number:02d}"),
            CvatGateway(access) as gateway,
        ):
            result = pull_round(
                folder,
                pushed,
                gateway,
                parallel=config.parallel,
                allow_incomplete=allow_incomplete,
                progress=bar,
            )
    finally:
        bar.close()
    for problem in result.refused:
        click.echo(f"left out: {problem}", err=True)
    if result.left_out:
        ids = ", ".join(map(str, result.left_out))
        click.echo(f"left out: jobs that are not completed: {ids}", err=True)
    click.echo("\n".join((_outcomes(result.corrections), *efforts.lines(result.effort))))


def _outcomes(corrections: Corrections) -> str:
    counts = (
        f"{corrections.count('accepted')} accepted, {corrections.count('refined')} refined, "
        f"{corrections.count('added')} added, {corrections.count('deleted')} deleted"
    )
    return f"round {corrections.round:02d}: {counts}, {len(corrections.rejected)} frames rejected"


@main.command()
@_round
@_json
def effort(number: int, home: Path | None, conf: Path, as_json: bool) -> None:
    """Show the time spent on a round, and hours saved against annotating by hand.

    Example: cvatsync effort --round 2 --json
    """
    folder = RoundFolder(Home.resolve(home), number)
    if folder.has("effort.json"):
        found = read_document(folder.file("effort.json"), Effort)
    else:
        pushed = need_pushed(folder)
        config, access = read_exchange(conf), read_access()
        from cvat_sync.gateway import CvatGateway
        from cvat_sync.pull import is_complete, list_jobs

        with CvatGateway(access) as gateway:
            jobs = [job for job in list_jobs(gateway, pushed, config.parallel) if is_complete(job)]
            found = efforts.read_effort(folder, pushed, jobs, gateway)
    _answer(found, efforts.lines(found), as_json)


@main.command()
@_round
@_json
def status(number: int, home: Path | None, conf: Path, as_json: bool) -> None:
    """Show where a round stands: its files, and its jobs in CVAT.

    Example: cvatsync status --round 2
    """
    folder = RoundFolder(Home.resolve(home), number)
    if not folder.has("pushed.json"):
        found = statuses.local_status(folder)
    else:
        config, access = read_exchange(conf), read_access()
        from cvat_sync.gateway import CvatGateway

        with CvatGateway(access) as gateway:
            found = statuses.remote_status(folder, need_pushed(folder), gateway, config.parallel)
    _answer(found, found.lines(), as_json)


@main.command(name="open")
@_round
@_json
@click.option("--browser", is_flag=True, help="Open the project in a browser too.")
def open_command(number: int, home: Path | None, conf: Path, as_json: bool, browser: bool) -> None:
    """Print the address of a round's project and tasks.

    Example: cvatsync open --round 2 --browser
    """
    del conf
    pushed = need_pushed(RoundFolder(Home.resolve(home), number))
    project = f"{pushed.url}/projects/{pushed.project_id}"
    tasks = tuple(f"{pushed.url}/tasks/{task.task_id}  {task.name}" for task in pushed.tasks)
    _answer(pushed, (project, *tasks), as_json)
    if browser:
        click.launch(project)


@main.command()
@click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
@click.option("--round", "number", type=click.IntRange(min=1), help="Check its labels too.")
@_json
def doctor(home: Path | None, number: int | None, as_json: bool) -> None:
    """Check the settings, the server, its functions and labels; exit code 1 if one is not well.

    Example: cvatsync doctor --round 2
    """
    place = Home.resolve(home)
    findings = [statuses.check_settings()]
    if findings[0].is_well:
        from cvat_sync.gateway import CvatGateway

        with closing(CvatGateway(read_access())) as gateway:
            findings.extend(statuses.check_server(gateway))
            if number is not None and all(f.is_well for f in findings if f.what == "server"):
                findings.append(statuses.check_labels(RoundFolder(place, number), gateway))
    findings.append(statuses.check_worker(place))
    if as_json:
        click.echo(json.dumps([finding.model_dump() for finding in findings]))
    else:
        for finding in findings:
            mark = "ok  " if finding.is_well else "not "
            click.echo(f"{mark}{finding.what}: {finding.text}")
    if not all(finding.is_well for finding in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
