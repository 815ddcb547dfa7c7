"""The `casebook` program: its commands, or what to install where they cannot be loaded."""

import sys


def main() -> None:
    """Run the command; on a deployment machine say what it lacks."""
    try:
        from angio.cli import main as commands
    except ModuleNotFoundError as problem:
        sys.exit(
            f"Error: casebook needs {problem.name}, which is not installed here; "
            "`pip install 'angioloop[lab]'` brings it"
        )
    commands()
