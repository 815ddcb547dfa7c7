"""Segmenters that packages bring: found by name among installed entry points.

A member of the group is called with the folder of its weights and gives a `Segmenter`, which may be
a `Tracker` as well. Knows no model.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from casebook.errors import ConfigError, ModelError
from casebook.following import Follower
from casebook.protocols import Segmenter, Tracker

GROUP = "angioloop.segmenters"


@runtime_checkable
class _Entry(Protocol):
    """An entry point: Python's own, or importlib_metadata's where a package has brought that in."""

    @property
    def value(self) -> str: ...

    def load(self) -> Any: ...


def members() -> tuple[str, ...]:
    """The names of the installed members, in order."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def _entry_of(name: str) -> _Entry:
    # One distribution can be found twice on the path: the same target is the same member.
    found = {entry.value: entry for entry in entry_points(group=GROUP, name=name)}
    if not found:
        raise ConfigError(
            f"no segmenter is called {name!r}; installed are {', '.join(members()) or 'none'}. "
            f"Install the package that brings it (entry-point group {GROUP})"
        )
    if len(found) > 1:
        raise ConfigError(
            f"segmenter {name!r} is brought twice, by {' and '.join(sorted(found))}; remove one of "
            "the packages"
        )
    return next(iter(found.values()))


def open_member(name: str, folder: Path) -> Segmenter:
    """A member with the weights of a folder.

    Raises:
        ConfigError: there is no member of this name or two, or what it needs is not installed.
        ModelError: its weights are missing or damaged, or it gives something else.
    """
    entry = _entry_of(name)
    try:
        opened = entry.load()
    except ImportError as problem:
        raise ConfigError(
            f"segmenter {name!r} needs what is not installed ({problem}); ours are installed by "
            f"`pip install 'angioloop[{name}]'`"
        ) from None
    found = opened(folder)
    if not isinstance(found, Segmenter):
        raise ModelError(
            f"segmenter {name!r} gave a {type(found).__name__}, expected a Segmenter; see "
            "casebook/protocols.py"
        )
    return found


def tracker_of(segmenter: Segmenter) -> Tracker:
    """The tracker a member brings; one that follows its answers where it brings none."""
    return segmenter if isinstance(segmenter, Tracker) else Follower(segmenter)
