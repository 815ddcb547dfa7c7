"""The last images by digest, each prepared once however many ask for it at the same time.

Knows nothing of models.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")


class RecentImages(Generic[V]):
    """What was prepared for the last images, up to a number of them; refreshed on use."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[str, Future[V]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many images are kept or being prepared."""
        return len(self._kept)

    def get(self, key: str, make: Callable[[], V]) -> tuple[V, bool]:
        """What belongs to a key, and whether it was there or under way already.

        An error of `make` reaches all who waited for it, and nothing is kept.
        """
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            else:
                mine: Future[V] = Future()
                self._kept[key] = mine
                while len(self._kept) > self._limit:
                    self._kept.popitem(last=False)
        if found is not None:
            return found.result(), True
        try:
            value = make()
        except BaseException as problem:
            with self._lock:
                if self._kept.get(key) is mine:
                    del self._kept[key]
            mine.set_exception(problem)
            raise
        mine.set_result(value)
        return value, False
