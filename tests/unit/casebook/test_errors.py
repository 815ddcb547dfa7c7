"""Every error says by itself how each edge ends."""

import re

from casebook import errors
from casebook.errors import AngioloopError


def tree() -> list[type[AngioloopError]]:
    found = [AngioloopError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_the_drawing_names_every_error() -> None:
    drawn = set(re.findall(r"\w+Error\b", (errors.__doc__ or "").partition("\n\n")[2]))
    assert {kind.__name__ for kind in tree()} == drawn


def test_every_error_ends_a_command_and_a_request() -> None:
    assert len(tree()) > 12
    for kind in tree():
        assert 1 <= kind.exit_code <= 125
        assert 400 <= kind.http_status <= 599
        assert isinstance(kind.transient, bool)
        assert kind.__doc__


def test_only_what_may_pass_is_transient() -> None:
    assert {kind.__name__ for kind in tree() if kind.transient} == {
        "BusyError",
        "UnreachableError",
    }
