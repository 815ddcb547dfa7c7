"""`cvatsync push`, `pull`, `effort` and `status`: a round there and back."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from casebook.catalogue import Catalogue
from casebook.corrections import Corrections, Effort
from casebook.documents import read_document
from casebook.errors import ConfigError, RemoteError, StateError
from casebook.home import locked
from casebook.rounds import RoundFolder
from cvat_sync import effort as efforts
from cvat_sync import status as statuses
from cvat_sync.cines import runs
from cvat_sync.commands.options import (
    Bar,
    answer,
    any_round,
    as_json,
    in_home,
    in_round,
    show,
    stopping_at_once,
    with_conf,
    workspace,
)
from cvat_sync.plan import PushPlan, plan_push
from cvat_sync.proposals import Proposals
from cvat_sync.pulled import PulledJob
from cvat_sync.pushed import need_pushed
from cvat_sync.remote import RemoteLabel
from cvat_sync.settings import ExchangeConfig, read_access, read_exchange
from cvat_sync.work import read_work

_SHOWN = 5


@click.command()
@in_round
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@as_json
def push(number: int, home: Path | None, conf: Path, dry_run: bool, as_json: bool) -> None:
    """Bring a round's frames and proposals into CVAT; a killed push resumes.

    Sends for the selection and the proposals first, if they are absent.

    Example: cvatsync push --round 2
    """
    folder = RoundFolder(workspace(home), number)
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
    from cvat_sync.dispatch import Asking, missing_steps, request_steps

    steps = missing_steps(folder)
    if steps and dry_run:
        asking = Asking(round=number, steps=steps)
        answer(asking, asking.lines(), as_json)
        return
    if dry_run:
        plan = _plan(folder, config, _proposals(folder))
        answer(plan, plan.lines(), as_json)
        return
    access = read_access()
    from cvat_sync.gateway import CvatGateway, retrying
    from cvat_sync.push import push as push_round

    bar = Bar("push")
    try:
        with (
            stopping_at_once(f"the push of round {number:02d}"),
            locked(folder.file(".push.lock"), f"a push of round {number:02d}"),
            CvatGateway(access) as gateway,
        ):
            if steps:
                gateway.read("log in", "/api/users/self")  # before something long begins
                request_steps(folder, conf, show)
            proposals = _proposals(folder)
            plan = _plan(folder, config, proposals)
            click.echo("\n".join(plan.lines()), err=True)
            pushed = push_round(
                folder,
                plan,
                read_work(folder),
                proposals,
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


def _proposals(folder: RoundFolder) -> Proposals:
    return Proposals(folder.file("proposals.coco.json"))


def _plan(folder: RoundFolder, config: ExchangeConfig, proposals: Proposals) -> PushPlan:
    manifest = read_work(folder)
    cines = runs(manifest, Catalogue(folder.home)) if config.form == "cines" else ()
    return plan_push(manifest, folder.manifest_sha256(), proposals, config, cines)


@click.command()
@in_round
@click.option(
    "--allow-incomplete",
    is_flag=True,
    help="Seal the round without the jobs that are not completed and the masks that are damaged.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Seal anew a round that is sealed; take jobs that are older in CVAT than here, and masks "
    "of a label that was deleted there as deleted.",
)
@as_json
def pull(
    number: int,
    home: Path | None,
    conf: Path,
    allow_incomplete: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Bring the experts' corrections back; only completed jobs count.

    A rectangle drawn where a mask is wanted becomes the promoted model's mask in CVAT, and its job
    goes back to its annotator to confirm it. A round that is sealed is only looked at again.

    Example: cvatsync pull --round 2
    """
    folder = RoundFolder(workspace(home), number)
    if folder.has("annotations.coco.json") and not force:
        line = _look_again(folder, conf)
        answer(read_document(folder.file("corrections.json"), Corrections), (line,), as_json)
        return
    pushed = need_pushed(folder)
    config, access = read_exchange(conf), read_access()
    from cvat_sync.boxes import answered, drawn_boxes, give_back
    from cvat_sync.gateway import CvatGateway
    from cvat_sync.pull import pull as pull_round

    bar = Bar("pull")
    try:
        with (
            stopping_at_once(f"the pull of round {number:02d}"),
            locked(folder.file(".pull.lock"), f"a pull of round {number:02d}"),
            CvatGateway(access) as gateway,
        ):

            def to_masks(
                jobs: Sequence[PulledJob], labels: Sequence[RemoteLabel]
            ) -> tuple[int, ...]:
                found = drawn_boxes(pushed, folder.manifest().labels, jobs)
                known = answered(folder, found, lambda name: _ask_for_masks(folder, name, conf))
                return give_back(gateway, found, known, labels)

            result = pull_round(
                folder,
                pushed,
                gateway,
                parallel=config.parallel,
                allow_incomplete=allow_incomplete,
                force=force,
                give_back=to_masks,
                progress=bar,
            )
    finally:
        bar.close()
    for line in result.told:
        click.echo(line, err=True)
    for problem in result.refused:
        click.echo(f"left out: {problem}", err=True)
    if result.left_out:
        ids = ", ".join(map(str, result.left_out))
        click.echo(f"left out: jobs that are not completed: {ids}", err=True)
    if force and folder.has("candidate.json"):
        click.echo(
            f"round {number:02d} was trained on the earlier annotations; "
            f"`trainer train --round {number} --force` trains it again",
            err=True,
        )
    lines = (_outcomes(result.corrections), *efforts.lines(result.effort))
    answer(result.corrections, lines, as_json)


def _ask_for_masks(folder: RoundFolder, name: str, conf: Path) -> None:
    from cvat_sync.dispatch import request

    request(folder, {"boxes": name}, conf, show)


def _look_again(folder: RoundFolder, conf: Path) -> str:
    """Whether anything has changed in CVAT since a round was sealed.

    Raises:
        StateError: jobs have changed; nothing is replaced unasked.
    """
    known = f"round {folder.number:02d} is pulled already"
    if not folder.has("pushed.json"):  # its annotations came with the cases
        return known
    from cvat_sync.gateway import CvatGateway
    from cvat_sync.pull import changed_jobs

    try:
        config, access = read_exchange(conf), read_access()
        with CvatGateway(access) as gateway:
            changed = changed_jobs(folder, need_pushed(folder), gateway, config.parallel)
    except (ConfigError, RemoteError) as problem:
        return f"{known}; CVAT could not be asked whether anything changed since: {problem}"
    if changed:
        shown = ", ".join(map(str, changed[:_SHOWN])) + (", …" if len(changed) > _SHOWN else "")
        raise StateError(
            f"round {folder.number:02d} is sealed, and {len(changed)} jobs were completed or "
            f"changed in CVAT since (ids {shown}). Pass --force to seal it anew; what it holds "
            "now is kept beside it"
        )
    return f"{known}; nothing changed in CVAT since"


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
    folder = RoundFolder(workspace(home), number)
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
@any_round
@in_home
@with_conf
@as_json
def status(number: int | None, home: Path | None, conf: Path, as_json: bool) -> None:
    """Show where a round stands: its files, and its jobs in CVAT; or all rounds, by their files.

    Example: cvatsync status --round 2
    """
    place = workspace(home)
    if number is None:
        rounds = statuses.local_rounds(place)
        answer(rounds, rounds.lines(), as_json)
        return
    folder = RoundFolder(place, number)
    local = statuses.local_status(folder)
    if not folder.has("pushed.json"):
        answer(local, local.lines(), as_json)
        return
    from cvat_sync.gateway import CvatGateway

    try:
        config, access = read_exchange(conf), read_access()
        with CvatGateway(access) as gateway:
            found = statuses.remote_status(folder, need_pushed(folder), gateway, config.parallel)
    except (ConfigError, RemoteError) as problem:
        unknown = local.with_(not_asked=str(problem))
        answer(unknown, unknown.lines(), as_json)
        sys.exit(problem.exit_code)
    answer(found, found.lines(), as_json)
