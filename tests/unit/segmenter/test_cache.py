import threading

from segmenter.cache import EmbeddingCache


def cache(limit: int) -> EmbeddingCache[bytes]:
    return EmbeddingCache(limit, len)


def test_a_value_is_made_once() -> None:
    held = cache(100)
    made = []

    def make() -> bytes:
        made.append(1)
        return b"x" * 10

    assert held.get("a", make) is held.get("a", make)
    assert made == [1]
    assert (held.hits, held.misses) == (1, 1)


def test_the_least_recently_used_goes_first() -> None:
    held = cache(20)
    held.get("a", lambda: b"a" * 10)
    held.get("b", lambda: b"b" * 10)
    held.get("a", lambda: b"")
    held.get("c", lambda: b"c" * 10)
    assert held.get("a", lambda: b"again") == b"a" * 10
    assert held.get("b", lambda: b"again") == b"again"
    assert held.held_bytes <= 20


def test_a_value_larger_than_the_cache_is_not_kept() -> None:
    held = cache(5)
    assert held.get("a", lambda: b"123456") == b"123456"
    assert len(held) == 0
    assert held.held_bytes == 0


def test_threads_share_one_value() -> None:
    held = cache(100)
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(held.get("a", lambda: bytes(8))))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert held.misses == 1


def test_clearing_forgets_everything() -> None:
    held = cache(100)
    held.get("a", lambda: b"1")
    held.clear()
    assert (len(held), held.held_bytes) == (0, 0)
