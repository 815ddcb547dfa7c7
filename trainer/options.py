"""Options that several `trainer` commands share."""

from pathlib import Path

import click


def _said(_: click.Context, parameter: click.Parameter, reason: str) -> str:
    if not reason.strip():
        raise click.BadParameter("is blank; say in a few words why", param=parameter)
    return reason.strip()


home_option = click.option("--home", type=click.Path(path_type=Path), help="The workspace.")
conf_option = click.option(
    "--conf",
    type=click.Path(path_type=Path),
    default=Path("conf"),
    show_default=True,
    help="Folder of round-NN.yaml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer as JSON.")
detach_option = click.option("--detach", is_flag=True, help="Queue only; do not follow.")
round_option = click.option("--round", "number", type=click.IntRange(min=1), help="Round.")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="NAME=VALUE", help="For instance train.lr=1e-4."
)
reason_option = click.option("--reason", required=True, callback=_said, help="Kept in audit.jsonl.")
