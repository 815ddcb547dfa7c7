"""Tracks that several workers share, on a Redis server of our own."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
import redis

from casebook.errors import ModelError, TrackerStateError
from casebook.following import Followed, Follower
from casebook.tracks import Track
from casebook.wire import TrackedShape
from serverless.redis_tracks import RedisTracks
from tests.fakes.threshold_model import ThresholdSegmenter

BOX = TrackedShape(type="rectangle", points=(1.0, 2.0, 3.0, 4.0))
FOLLOWER = Follower(ThresholdSegmenter())


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = str(tmp_path_factory.mktemp("redis"))
    options = ["--port", str(port), "--save", "", "--bind", "127.0.0.1", "--dir", folder]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL)
    client, deadline = redis.Redis(port=port), time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            client.ping()
            break
        except redis.ConnectionError:
            assert process.poll() is None
    client.close()
    yield f"redis://127.0.0.1:{port}/1"
    process.terminate()
    process.wait(timeout=60)


def track(row: int = 2) -> Track:
    bitmap = np.zeros((8, 9), dtype=bool)
    bitmap[row, 3:6] = True
    return Track(FOLLOWER, "old", Followed(bitmap, None), (8, 9), BOX)


def test_another_worker_finds_the_track_and_goes_on_with_its_own_model(url: str) -> None:
    key = RedisTracks(url, FOLLOWER, "old").keep(track(5))
    other = Follower(ThresholdSegmenter("new"))
    found = RedisTracks(url, other, "new").find(key, (8, 9))
    assert (found.tracker, found.model_id, found.last, found.hw) == (other, "new", BOX, (8, 9))
    assert isinstance(found.memory, Followed)
    assert found.memory.bitmap[5, 3:6].all()
    assert found.memory.bitmap.sum() == 3
    assert len(key) >= 24


def test_an_unknown_key_is_a_conflict(url: str) -> None:
    with pytest.raises(TrackerStateError, match="unknown or expired"):
        RedisTracks(url, FOLLOWER, "m").find("guess", (8, 9))


def test_another_size_is_a_conflict(url: str) -> None:
    store = RedisTracks(url, FOLLOWER, "m")
    with pytest.raises(TrackerStateError, match="9×8 px images, this one has 8×9"):
        store.find(store.keep(track()), (9, 8))


def test_a_track_expires_and_use_refreshes_it(url: str) -> None:
    store = RedisTracks(url, FOLLOWER, "m", max_age_s=1000)
    key = store.keep(track())
    client = redis.Redis.from_url(url)
    assert 990 <= client.ttl(f"angioloop:track:{key}") <= 1000
    client.expire(f"angioloop:track:{key}", 10)
    store.find(key, (8, 9))
    assert client.ttl(f"angioloop:track:{key}") > 900
    client.expire(f"angioloop:track:{key}", 0)
    with pytest.raises(TrackerStateError):
        store.find(key, (8, 9))
    client.close()


@pytest.mark.parametrize("stored", [b"", b"\x00\x00\x00\x02{}rest", b"\xff\xff\xff\xff{", b"junk"])
def test_what_another_version_kept_counts_as_expired(url: str, stored: bytes) -> None:
    client = redis.Redis.from_url(url)
    client.set("angioloop:track:foreign", stored)
    client.close()
    with pytest.raises(TrackerStateError, match="unknown or expired"):
        RedisTracks(url, FOLLOWER, "m").find("foreign", (8, 9))


def test_a_server_that_is_gone_is_named_and_the_address_is_not() -> None:
    store = RedisTracks("redis://127.0.0.1:1/0", FOLLOWER, "m")
    for ask in (lambda: store.keep(track()), lambda: store.find("key", (8, 9))):
        with pytest.raises(ModelError, match=r"ANGIOLOOP_TRACKS in docs/deploy\.md") as caught:
            ask()
        assert caught.value.http_status == 503


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="expected redis://HOST:PORT/DATABASE"):
        RedisTracks("ftp://x", FOLLOWER, "m")
