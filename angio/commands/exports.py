"""`casebook export`: give cases and masks out in other people's formats.

Knows no format; the writers do the work. Results go to stdout, progress to stderr.
"""

import click


@click.group("export")
def export() -> None:
    """Give cases and masks out: nothing of a patient, only what the catalogue holds."""
