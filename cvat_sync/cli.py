"""The `cvatsync` command: push and pull rounds, see where they stand.

Results go to stdout, plans and progress to stderr.
"""

import click

from cvat_sync.commands.exchange import effort, pull, push, status
from cvat_sync.commands.health import doctor, open_command
from cvat_sync.commands.login import login, logout
from cvat_sync.commands.options import Commands
from cvat_sync.commands.quality import comment, propagate, review
from cvat_sync.commands.warming import prewarm
from cvat_sync.commands.watching import watch


@click.group(cls=Commands)
def main() -> None:
    """Rounds to CVAT and back."""


for command in (
    *(login, logout, push, pull, effort, status, open_command, doctor, watch),
    *(comment, review, propagate, prewarm),
):
    main.add_command(command)


if __name__ == "__main__":
    main()
