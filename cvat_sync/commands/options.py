"""What the verbs of `cvatsync` share: options, progress, answers, and errors as one line."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from tqdm import tqdm

from casebook.errors import AngioloopError, ConfigError
from casebook.home import Home
from casebook.rounds import Event
from cvat_sync.settings import CONF

F = TypeVar("F", bound=Callable[..., Any])
_SYSTEM_EXIT = 74
"""What the system refuses us. Source: sysexits.h, EX_IOERR."""
_STDERR = 2
"""The standard error stream's number."""
STOPPED_EXIT = 130
"""What shells say of a command that Ctrl-C has ended: 128 and the signal's number."""


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
            sys.exit(_SYSTEM_EXIT)


in_home = click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
with_conf = click.option(
    "--conf",
    type=click.Path(path_type=Path),
    default=CONF,
    show_default=True,
    help="Folder of round-NN.yaml and, if wanted, cvat.yaml.",
)
any_round = click.option("--round", "number", type=click.IntRange(min=1), help="Round.")
as_json = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
dry_run = click.option("--dry-run", is_flag=True, help="Print the plan and stop.")


def in_round(command: F) -> F:
    """The options of a command that works on one round."""
    one = click.option(
        "--round", "number", type=click.IntRange(min=1), required=True, help="Round."
    )
    found: F = one(in_home(with_conf(command)))
    return found


def answer(document: BaseModel, lines: tuple[str, ...], as_json: bool) -> None:
    """A document as JSON, or what it says in words."""
    click.echo(document.model_dump_json() if as_json else "\n".join(lines))


class Bar:
    """Progress on stderr: a bar on a terminal, a line for every tenth elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._tenth = -1
        self._bar = tqdm(total=100, desc=what, file=sys.stderr) if sys.stderr.isatty() else None

    def __call__(self, text: str, fraction: float) -> None:
        """Show one step done."""
        if self._bar is None:
            if int(10 * fraction) != self._tenth:
                self._tenth = int(10 * fraction)
                click.echo(f"{self._what} {fraction:4.0%}  {text}", err=True)
            return
        self._bar.n = round(100 * fraction)
        self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self._bar is not None:
            self._bar.close()


def workspace(given: Path | None) -> Home:
    """The workspace a command works in.

    Raises:
        ConfigError: it is not there; one is not begun by a misspelt name.
    """
    home = Home.resolve(given)
    if not home.root.is_dir():
        raise ConfigError(
            f"the workspace {home.root} is not there; correct --home or ANGIOLOOP_HOME, or import "
            "cases into it first"
        )
    return home


@contextmanager
def stopping_at_once(what: str) -> Iterator[None]:
    """Let Ctrl-C end the process as a kill does, in one line.

    A server that does not answer would otherwise be waited for, in each thread and with all its
    attempts. What a kill leaves behind, the next run of the same command finds and goes on from.
    """

    def stop(*_: object) -> None:
        # Neither a stream, which may be in the middle of a line, nor an exception, which would
        # wait for the threads.
        line = f"\n{what} is stopped; what was done is kept: run the same command again to go on\n"
        os.write(_STDERR, line.encode())
        os._exit(STOPPED_EXIT)

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # a shell's own choice, for what runs in the background
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def show(event: Event) -> None:
    """A worker's line of progress, on stderr."""
    share = "" if event.fraction is None else f" {event.fraction:4.0%}"
    click.echo(f"{event.step}{share}  {event.message}", err=True)
