"""`cvatsync push`, `pull`, `effort` and `status`: a round there and back."""

from pathlib import Path

import click

from casebook.corrections import Corrections, Effort
from casebook.documents import read_document
from casebook.errors import StateError
from casebook.home import Home, locked
from casebook.rounds import RoundFolder
from cvat_sync import effort as efforts
from cvat_sync import status as statuses
from cvat_sync.commands.options import Bar, answer, as_json, in_round, show
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.pushed import need_pushed
from cvat_sync.settings import ExchangeConfig, read_access, read_exchange


@click.command()
@in_round
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@as_json
def push(number: int, home: Path | None, conf: Path, dry_run: bool, as_json: bool) -> None:
    """Bring a round's frames and proposals into CVAT; a killed push resumes.

    Sends for the selection and the proposals first, if they are absent.

    Example: cvatsync push --round 2
    """
    folder = RoundFolder(Home.resolve(home), number)
    if folder.has("pushed.json"):
        pushed = need_pushed(folder)
        line = f"round {number:02d} is pushed already: {len(pushed.tasks)} tasks"
        answer(pushed, (line,), as_json)
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
        plan = _plan(folder, config)
        answer(plan, plan.lines(), as_json)
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
                request_steps(folder, conf, show)
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
                progress=bar,
                tell=lambda line: click.echo(f"  {line}", err=True),
            )
    finally:
        bar.close()
    line = (
        f"round {number:02d} pushed: {len(pushed.tasks)} tasks, {plan.n_frames} frames, "
        f"{plan.n_masks} masks → {access.url}/projects/{pushed.project_id}"
    )
    answer(pushed, (line,), as_json)


def _plan(folder: RoundFolder, config: ExchangeConfig) -> PushPlan:
    proposals = Proposals(folder.file("proposals.coco.json"))
    return plan_push(folder.manifest(), folder.manifest_sha256(), proposals, config)


@click.command()
@in_round
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


@click.command()
@in_round
@as_json
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
    answer(found, efforts.lines(found), as_json)


@click.command()
@in_round
@as_json
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
    answer(found, found.lines(), as_json)
