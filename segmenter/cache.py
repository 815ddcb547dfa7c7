"""A bounded memory of embeddings: the least recently used go first.

Bounded by bytes, because an embedding of the real model is a thousand times one of the tiny.
Knows nothing of models.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
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
        return self.get_all([key], lambda _missing: [make()])[0]

    def get_all(self, keys: Sequence[K], make: Callable[[list[K]], Sequence[V]]) -> list[V]:
        """The values of several keys; those that are not held are made together, each once."""
        with self._lock:
            missing = list(dict.fromkeys(key for key in keys if key not in self._values))
            self.hits += len(keys) - len(missing)
            self.misses += len(missing)
            for key in keys:
                if key in self._values:
                    self._values.move_to_end(key)
            known = {key: self._values[key] for key in keys if key in self._values}
            if missing:
                made = dict(zip(missing, make(missing), strict=True))
                known |= made
                for key, value in made.items():
                    self._keep(key, value)
            return [known[key] for key in keys]

    def _keep(self, key: Hashable, value: V) -> None:
        size = self._size_of(value)
        if size > self._limit_bytes:
            return
        self._values[key] = value
        self._bytes += size
        while self._bytes > self._limit_bytes:
            _, old = self._values.popitem(last=False)
            self._bytes -= self._size_of(old)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self._bytes = 0
