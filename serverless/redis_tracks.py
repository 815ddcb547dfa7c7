"""Tracks in Redis, for several workers of one tracker and for a worker that was restarted.

What is kept of an object is its last mask, which any model can go on from; the model in use makes
the next step. Knows no Nuclio.
"""

import secrets

import redis

from casebook.documents import Document
from casebook.errors import DataError, ModelError
from casebook.following import Followed, Follower, memory_from_bytes, memory_to_bytes
from casebook.tracks import MAX_AGE_S, Track, check_size, unknown_state
from casebook.wire import TrackedShape

_PREFIX = "angioloop:track:"
_TIMEOUT_S = 5.0


class _Head(Document):
    """What is kept beside the memory."""

    hw: tuple[int, int]
    last: TrackedShape


class RedisTracks:
    """Tracks behind keys that expire, refreshed on use; implements `Tracks`."""

    def __init__(
        self, url: str, follower: Follower, model_id: str, *, max_age_s: float = MAX_AGE_S
    ) -> None:
        """A store over a server, which is asked when the first track comes.

        Raises:
            ModelError: the address is not one of a Redis server.
        """
        try:
            self._client = redis.Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
            )
        except ValueError:
            raise ModelError(
                "ANGIOLOOP_TRACKS is not an address of Redis; expected redis://HOST:PORT/DATABASE"
            ) from None
        self._follower = follower
        self._model_id = model_id
        self._max_age_s = max(1, int(max_age_s))

    def keep(self, track: Track) -> str:
        """Remember a track; returns its key.

        Raises:
            ModelError: Redis does not answer.
        """
        assert isinstance(track.memory, Followed)  # noqa: S101 - models.py gives it a Follower
        key = secrets.token_urlsafe(24)
        head = _Head(hw=track.hw, last=track.last).model_dump_json().encode()
        payload = len(head).to_bytes(4, "big") + head + memory_to_bytes(track.memory)
        try:
            self._client.set(_PREFIX + key, payload, ex=self._max_age_s)
        except redis.RedisError as problem:
            raise _silent(problem) from None
        return key

    def find(self, key: str, hw: tuple[int, int]) -> Track:
        """The track behind a key.

        Raises:
            TrackerStateError: unknown, expired, or made from images of another size.
            ModelError: Redis does not answer.
        """
        try:
            payload = self._client.getex(_PREFIX + key, ex=self._max_age_s)
        except redis.RedisError as problem:
            raise _silent(problem) from None
        if not isinstance(payload, bytes):
            raise unknown_state()
        length = int.from_bytes(payload[:4], "big")
        try:
            head = _Head.model_validate_json(payload[4 : 4 + length])
            memory = memory_from_bytes(payload[4 + length :])
        except (ValueError, DataError):  # of another version of this program
            raise unknown_state() from None
        track = Track(self._follower, self._model_id, memory, head.hw, head.last)
        check_size(track, hw)
        return track


def _silent(problem: redis.RedisError) -> ModelError:
    return ModelError(
        f"the tracker's Redis does not answer ({type(problem).__name__}); see ANGIOLOOP_TRACKS in "
        "docs/deploy.md"
    )
