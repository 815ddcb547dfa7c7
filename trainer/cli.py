"""The `trainer` command: train a round, follow it, stop it, write reports.

Knows no step; work is queued by name and followed on disk.
"""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from casebook.documents import Document
from casebook.embedded import worker_alive
from casebook.errors import AngioloopError, BusyError, StateError
from casebook.home import Home
from casebook.registry import Registry
from casebook.rounds import RoundFolder
from trainer import cancellation
from trainer.follow import Display, follow
from trainer.model_commands import compare, models, promote, prune, rollback
from trainer.options import (
    conf_option,
    detach_option,
    home_option,
    json_option,
    round_option,
    set_option,
)
from trainer.requests import SYSTEM_EXIT, failure, pending, round_folders

F = TypeVar("F", bound=Callable[..., Any])
INTERRUPTED = 130
STOP_S = 60.0
"""How long `trainer cancel` waits for the step to stop."""


class Commands(click.Group):
    """A group whose expected failures are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn our errors into a message."""
        try:
            return super().invoke(ctx)
        except AngioloopError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_code)
        except OSError as problem:  # disk full, no permission, a folder that went away
            where = f"{problem.filename}: " if problem.filename else ""
            click.echo(
                f"Error: {where}{problem.strerror or problem}; make room or give access, then run "
                "the same command again: what was done so far is kept",
                err=True,
            )
            sys.exit(SYSTEM_EXIT)


@click.group(cls=Commands)
def main() -> None:
    """Training rounds: from pulled annotations to a promoted model and its report."""


@main.command()
@click.option("--round", "number", type=click.IntRange(min=1), required=True, help="Round.")
@home_option
@conf_option
@set_option
@click.option("--force", is_flag=True, help="Train again: drops the round's candidate and after.")
@detach_option
def train(
    number: int,
    home: Path | None,
    conf: Path,
    overrides: tuple[str, ...],
    force: bool,
    detach: bool,
) -> None:
    """Train, evaluate, decide, promote and report a round, and follow it.

    Example: trainer train --round 2
    """
    from trainer.chain import STEP_FILES, TRAINING, check_ready, queue_steps, steps_left
    from trainer.rounds_config import read_round_config

    folder = RoundFolder(Home.resolve(home), number)
    config = read_round_config(conf, number, overrides)
    check_ready(folder, config.select.source)
    if force:
        for step in TRAINING:
            folder.file(STEP_FILES[step]).unlink(missing_ok=True)
    left = steps_left(folder)
    if left:
        queue_steps(folder, left, conf, overrides)
        _watch(folder, detach)
    if not detach:
        click.echo(_outcome(folder))


@main.command(name="follow")
@round_option
@home_option
def follow_command(number: int | None, home: Path | None) -> None:
    """Follow a round that is being worked on; Ctrl-C stops only the following.

    Example: trainer follow --round 2
    """
    place = Home.resolve(home)
    folder = RoundFolder(place, number) if number else _busy_round(place)
    _watch(folder, detach=False)
    click.echo(f"round {folder.number:02d}: {folder.state()}")


@main.command()
@click.option("--round", "number", type=click.IntRange(min=1), required=True, help="Round.")
@click.option("--reason", default="", help="Kept in audit.jsonl and told to who follows.")
@home_option
def cancel(number: int, reason: str, home: Path | None) -> None:
    """Stop a round's work; what is done stays, and `trainer train` goes on from there.

    A step stops when it next tells how far it is, a training with a checkpoint of that moment.

    Example: trainer cancel --round 2 --reason "wrong labels"
    """
    folder = RoundFolder(Home.resolve(home), number)
    step = cancellation.cancel(folder, reason)
    click.echo(f"round {number:02d}: {step} is called off", err=True)
    if not cancellation.wait(folder, STOP_S):
        raise BusyError(
            f"round {number:02d}: {step} has not stopped within {STOP_S:.0f} s, and will when it "
            "next tells how far it is; `trainer status` shows when nothing is queued any more"
        )
    found = failure(folder)
    if found is None or found.kind != cancellation.CancelledError.__name__:
        click.echo(f"round {number:02d}: was over before it could be stopped ({folder.state()})")
        return
    click.echo(f"round {number:02d}: stopped before the end of {found.step}")


@main.command()
@home_option
@json_option
def status(home: Path | None, as_json: bool) -> None:
    """Show each round's state, what is queued and which teacher is in use.

    Example: trainer status --json
    """
    place = Home.resolve(home)
    rounds = [_status_of(folder) for folder in round_folders(place)]
    promoted = Registry(place).promoted()
    worker = worker_alive(place) if place.embedded else None
    if as_json:
        entries = [entry.model_dump() for entry in rounds]
        click.echo(json.dumps({"rounds": entries, "promoted": promoted, "worker": worker}))
        return
    for entry in rounds:
        notes = f"  queued: {', '.join(entry.left)}" if entry.left else ""
        notes += f"  failed: {entry.failed}" if entry.failed else ""
        click.echo(f"round {entry.round:02d}  {entry.state}{notes}")
    click.echo(f"teacher {promoted or 'none promoted yet'}; {_worker_words(worker)}")


@main.command()
@home_option
@json_option
def report(home: Path | None, as_json: bool) -> None:
    """Write the report over all rounds: rounds/report.html and report.json.

    Example: trainer report
    """
    from trainer.overview import write_overview

    place = Home.resolve(home)
    overview = write_overview(place)
    if as_json:
        click.echo(overview.model_dump_json())
        return
    click.echo(place.root / "rounds" / "report.html")


@main.command()
@home_option
@conf_option
@set_option
@detach_option
@click.option("--here", is_flag=True, help="Do it in this process, beside what a worker does.")
def control(
    home: Path | None, conf: Path, overrides: tuple[str, ...], detach: bool, here: bool
) -> None:
    """Train as many steps on round 1's data only: what did the corrections bring?

    Example: trainer control
    """
    place = Home.resolve(home)
    if here and detach:
        raise click.UsageError("--here and --detach exclude one another; give one")
    if here:
        from trainer.control import Beside
        from trainer.control import control as train_control

        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s", force=True)
        click.echo(train_control(Beside(_last_decided(place), conf, overrides)))
    else:
        _one_step("control", home, conf, overrides, detach)
    if not detach:
        click.echo(place.root / "rounds" / "control.json")


@main.command()
@home_option
@conf_option
@set_option
@detach_option
@json_option
@click.option("--adopt", is_flag=True, help="Let those clearly better answer for their views.")
def specialists(
    home: Path | None,
    conf: Path,
    overrides: tuple[str, ...],
    detach: bool,
    as_json: bool,
    adopt: bool,
) -> None:
    """Train an adapter for each vessel and compare it with the generalist.

    Example: trainer specialists --adopt
    """
    from trainer.specialists import adopt as adopt_better
    from trainer.specialists import read_comparisons

    place = Home.resolve(home)
    _one_step("specialists", home, conf, overrides, detach)
    if detach:
        return
    found = read_comparisons(place)
    if as_json:
        click.echo(found.model_dump_json(indent=1, by_alias=True))
    else:
        click.echo(f"generalist {found.generalist}; IoU with box on its own vessel's cases")
        for row in found.vessels:
            gain = row.val_gain
            click.echo(
                f"{row.vessel:6} {row.cases:4} cases  val {row.val_generalist.mean:.3f} → "
                f"{row.val_specialist.mean:.3f}, gain {gain.mean:+.3f} [{gain.low:+.3f}, "
                f"{gain.high:+.3f}]  test {row.test_generalist.mean:.3f} → "
                f"{row.test_specialist.mean:.3f}  {row.model_id}"
            )
        for line in found.left_out:
            click.echo(f"left out: {line}", err=True)
    if adopt:
        adopted, refused = adopt_better(place)
        for entry in adopted:
            click.echo(f"{entry.model_id} answers for {entry.vessel}", err=True)
        for line in refused:
            click.echo(f"not adopted: {line}", err=True)


@main.command()
@home_option
@conf_option
@set_option
@detach_option
def distil(home: Path | None, conf: Path, overrides: tuple[str, ...], detach: bool) -> None:
    """Distil the promoted teacher to the ONNX student and release it if it passes the gates.

    Example: trainer distil
    """
    _one_step("distil", home, conf, overrides, detach)
    if not detach:
        click.echo(f"released {Registry(Home.resolve(home)).released() or 'nothing yet'}")


class RoundStatus(Document):
    """A round as `trainer status` shows it."""

    round: int
    state: str
    """The last file that is there."""
    left: tuple[str, ...]
    """Steps asked for and not done."""
    failed: str | None


def _status_of(folder: RoundFolder) -> RoundStatus:
    request, failed = pending(folder), failure(folder)
    return RoundStatus(
        round=folder.number,
        state=folder.state(),
        left=request.left if request else (),
        failed=f"{failed.step}: {failed.message}" if failed else None,
    )


def _one_step(
    step: str, home: Path | None, conf: Path, overrides: tuple[str, ...], detach: bool
) -> None:
    from trainer.chain import queue_steps

    place = Home.resolve(home)
    folder = _last_decided(place)
    queue_steps(folder, (step,), conf, overrides)
    _watch(folder, detach)


def _watch(folder: RoundFolder, detach: bool) -> None:
    """Follow the round's request to its end, unless detached."""
    again = f"trainer follow --round {folder.number} --home {folder.home.root}"
    if detach:
        click.echo(f"queued; `{again}` follows", err=True)
        return
    request = pending(folder)
    display = Display(folder.number)
    try:
        follow(folder, display, since=request.at if request else None)
    except KeyboardInterrupt:
        display.close()
        click.echo(f"\nStopped following; the worker goes on. `{again}` follows again.", err=True)
        sys.exit(INTERRUPTED)
    finally:
        display.close()


def _busy_round(home: Home) -> RoundFolder:
    busy = [folder for folder in round_folders(home) if pending(folder) is not None]
    if not busy:
        raise StateError("nothing is being worked on; `trainer status` shows the rounds")
    return busy[-1]


def _last_decided(home: Home) -> RoundFolder:
    decided = [folder for folder in round_folders(home) if folder.has("decision.json")]
    if not decided:
        raise StateError("no round has been decided yet. Run `make train ROUND=1` first.")
    return decided[-1]


def _outcome(folder: RoundFolder) -> str:
    from trainer.results import Decision

    path = folder.need("decision.json", f"Run `make train ROUND={folder.number}` again.")
    decision = Decision.model_validate_json(path.read_bytes())
    verdict = "promoted" if decision.promote else f"not promoted, {decision.incumbent} stays"
    return (
        f"round {folder.number:02d}: {decision.candidate} {verdict} "
        f"({'; '.join(decision.reasons)})\n{folder.file('report.html')}"
    )


def _worker_words(worker: bool | None) -> str:
    if worker is None:
        return "workers run at $ANGIOLOOP_BROKER"
    return "a worker is at work" if worker else "no worker runs"


for _command in (compare, models, promote, prune, rollback):
    main.add_command(_command)

if __name__ == "__main__":
    main()
