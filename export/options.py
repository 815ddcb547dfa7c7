"""What the commands of `angioinfer` share: the group, the options, the bundle in use."""

import sys
from pathlib import Path
from typing import Any

import click

from casebook.errors import AngioloopError, ModelError
from casebook.home import Home
from casebook.registry import Registry
from export.bundle import Bundle, read_bundle
from export.precision import PRECISIONS
from export.runtime import PROVIDERS
from export.signature import check_signature, read_key


class Commands(click.Group):
    """A group whose expected failures are one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn our errors into a message."""
        try:
            return super().invoke(ctx)
        except AngioloopError as problem:
            click.echo(f"Error: {problem}", err=True)
            sys.exit(problem.exit_code)


bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Folder of a released bundle; else the workspace's released one.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
threads_option = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
provider_option = click.option(
    "--provider",
    type=click.Choice(tuple(PROVIDERS)),
    help="What computes; else the best installed but TensorRT.",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="Arithmetic, where the bundle has it; else what suits the provider.",
)
key_option = click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="File of the key the bundle must be signed with.",
)


def bundle_folder(given: Path | None) -> Path:
    """The bundle given, else the workspace's released one.

    Raises:
        ModelError: none is given and none is released.
    """
    if given is not None:
        return given
    home = Home.resolve()
    version = Registry(home).released()
    if version is None:
        raise ModelError(f"no student is released in {home.models}; give --bundle DIR")
    return home.models / "released" / version


def checked_bundle(folder: Path, key: Path | None) -> Bundle:
    """The manifest of a whole bundle, signed with the key when one is given.

    Raises:
        ModelError: no bundle, damaged, newer than this program, or not signed with the key.
        ConfigError: the key's file cannot be used.
    """
    bundle = read_bundle(folder)
    if key is not None:
        check_signature(folder, read_key(key))
    return bundle
