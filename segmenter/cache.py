"""A bounded memory of embeddings: the least recently used go first.

Bounded by bytes, because an embedding of the real model is a thousand times one of the tiny.
Knows nothing of models.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class EmbeddingCache(Generic[V]):
    """Values by key, up to a number of bytes in all; safe to use from several threads."""

    def __init__(self, limit_bytes: int, size_of: Callable[[V], int]) -> None:
        self._limit_bytes = limit_bytes
        self._size_of = size_of
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._values)

    @property
    def held_bytes(self) -> int:
        """Bytes of all values held."""
        return self._bytes

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made when it is not held.

        A value larger than the whole cache is returned and not kept.
        """
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                self.hits += 1
                return self._values[key]
            self.misses += 1
            value = make()
            size = self._size_of(value)
            if size <= self._limit_bytes:
                self._values[key] = value
                self._bytes += size
                while self._bytes > self._limit_bytes:
                    _, old = self._values.popitem(last=False)
                    self._bytes -= self._size_of(old)
            return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._bytes = 0
