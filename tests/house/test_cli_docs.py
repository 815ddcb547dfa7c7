"""The manual says what the commands say, and every command shows an example."""

import click
import pytest

from docs.cli import PAGE, commands, page, walk


def test_the_manual_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


def every_command() -> list[tuple[str, click.Command]]:
    return [pair for name, command in commands().items() for pair in walk(name, command)]


@pytest.mark.parametrize(("name", "command"), every_command(), ids=lambda value: str(value))
def test_every_command_has_help_with_an_example(name: str, command: click.Command) -> None:
    text = f"{command.help or ''} {command.epilog or ''}"
    assert len(text) > 20, f"{name} has no help"
    if not isinstance(command, click.Group):
        assert "Example" in text, f"{name} shows no example"
