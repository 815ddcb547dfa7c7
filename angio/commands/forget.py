"""`casebook forget`: a patient's withdrawal.

Knows what is printed; the work is in angio/withdrawal.py. Names no patient.
"""

from pathlib import Path

import click

from angio.commands.options import home_option, json_option
from angio.withdrawal import Withdrawal
from angio.withdrawal import forget as withdraw
from casebook.home import Home


@click.command()
@click.argument("pseudonym")
@home_option
@click.option("--dry-run", is_flag=True, help="Say what would happen, change nothing.")
@json_option
def forget(pseudonym: str, home: Path | None, dry_run: bool, as_json: bool) -> None:
    """Remove a patient who withdraws, and list what people must remove elsewhere.

    Removes the cases, their entries in every round and the re-link rows; a later import of the
    patient is refused. Models that saw the patient and copies in CVAT are listed.

    Example: casebook forget p0a1b2c3d4e5 --dry-run
    """
    told = withdraw(Home.resolve(home), pseudonym, dry_run=dry_run)
    if as_json:
        click.echo(told.model_dump_json(indent=1))
        return
    for line in _lines(told):
        click.echo(line)


def _lines(told: Withdrawal) -> list[str]:
    done = "would be removed" if told.dry_run else "removed"
    lines = [f"{told.pseudonym}: {len(told.cases)} cases {done}"]
    lines += [f"  {e.round}/{e.file}: {e.entries} entries taken out" for e in told.pruned]
    lines += [f"model {m.model_id} ({m.kind}): {m.reason}" for m in told.models]
    lines += [
        f"CVAT {c.url} task {c.task_id}: delete the frames {', '.join(c.frames)}"
        for c in told.copies
    ]
    if told.models:
        lines.append("models keep what they learned: retire them, or train them again without it")
    return lines
