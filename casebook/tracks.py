"""What a tracker remembers between requests, behind keys nobody can guess.

The browser carries only the key; the memory stays here, bounded in number and age. Every step gets
a new key, so a request that is repeated, or a person who goes back, meets the memory as it was.
"""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from casebook.errors import TrackerStateError
from casebook.protocols import Tracker
from casebook.wire import TrackedShape

MAX_AGE_S = 8 * 3600.0
"""As long as CVAT lets a browser carry a state."""
MAX_STATES = 256
"""Oldest ones are forgotten first."""


@dataclass(frozen=True)
class Track:
    """One object being followed."""

    tracker: Tracker
    """The model that made the memory; a newer one could not read it."""
    model_id: str
    memory: object
    hw: tuple[int, int]
    """Size in px of the images it was made from."""
    last: TrackedShape
    """Where the object was: the answer when it is lost, since CVAT needs a shape."""


@runtime_checkable
class Tracks(Protocol):
    """Where tracks are remembered: in this process, or where several workers find them."""

    def keep(self, track: Track) -> str:
        """Remember a track; returns its key."""
        ...

    def find(self, key: str, hw: tuple[int, int]) -> Track:
        """The track behind a key.

        Raises:
            TrackerStateError: unknown, expired, or made from images of another size.
        """
        ...


def check_size(track: Track, hw: tuple[int, int]) -> None:
    """Refuse to go on with a track on images of another size.

    Raises:
        TrackerStateError: both sizes are named.
    """
    if track.hw != hw:
        raise TrackerStateError(
            f"the tracker's state is of {track.hw[1]}×{track.hw[0]} px images, this one "
            f"has {hw[1]}×{hw[0]} px; start from a shape again"
        )


def unknown_state() -> TrackerStateError:
    """The refusal of a key that leads nowhere."""
    return TrackerStateError("the tracker's state is unknown or expired; start from a shape again")


class TrackStore:
    """Bounded memory of tracks in this process, refreshed on use."""

    def __init__(
        self,
        *,
        max_states: int = MAX_STATES,
        max_age_s: float = MAX_AGE_S,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_states = max_states
        self._max_age_s = max_age_s
        self._clock_s = clock_s
        self._tracks: OrderedDict[str, tuple[float, Track]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many tracks are remembered."""
        return len(self._tracks)

    def keep(self, track: Track) -> str:
        """Remember a track; returns its key."""
        key = secrets.token_urlsafe(24)
        with self._lock:
            self._forget_old()
            self._tracks[key] = (self._clock_s(), track)
            while len(self._tracks) > self._max_states:
                self._tracks.popitem(last=False)
        return key

    def find(self, key: str, hw: tuple[int, int]) -> Track:
        """The track behind a key.

        Raises:
            TrackerStateError: unknown, expired, or made from images of another size.
        """
        with self._lock:
            self._forget_old()
            if key not in self._tracks:
                raise unknown_state()
            _, track = self._tracks[key]
            check_size(track, hw)
            self._tracks[key] = (self._clock_s(), track)
            self._tracks.move_to_end(key)
        return track

    def _forget_old(self) -> None:
        oldest_s = self._clock_s() - self._max_age_s
        while self._tracks and next(iter(self._tracks.values()))[0] < oldest_s:
            self._tracks.popitem(last=False)
