"""What every `casebook` command shares: options, the bar, and errors as one line.

Knows no command.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from tqdm import tqdm

from angio.intake import Progress
from casebook.catalogue import Catalogue
from casebook.errors import AngioloopError, ConfigError
from casebook.home import Home

F = TypeVar("F", bound=Callable[..., Any])

LABELS = Path("conf/labels")


class Commands(click.Group):
    """A group whose expected failures are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn our errors into a message."""
        try:
            return super().invoke(ctx)
        except AngioloopError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_code)


home_option = click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
json_option = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Check everything, write nothing.")


def labels_option(default: str) -> Callable[[F], F]:
    """The option that names a file of labels."""
    return click.option(
        "--labels",
        type=click.Path(path_type=Path),
        default=LABELS / default,
        show_default=True,
        help="What may be annotated.",
    )


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """A bar on stderr, only where a person looks at it."""
    with tqdm(desc=what, unit="", file=sys.stderr, leave=False, disable=None) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress


def pair(text: str, option: str) -> tuple[str, str]:
    """The two sides of NAME=VALUE."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise ConfigError(f"{option} {text!r}; expected FROM=TO")
    return name, value


def open_catalogue(home: Path | None) -> Catalogue:
    """The workspace's catalogue; a message when there is none."""
    place = Home.resolve(home)
    if not place.catalogue.exists():
        raise ConfigError(
            f"{place.root} has no catalogue; import cases with `casebook import`, or give --home"
        )
    return Catalogue(place)
