"""The model in use: a new one is loaded beside the old and swapped in between two requests.

The pointer is looked at on each request. A model that cannot be loaded is refused and the old one
serves on; it is tried again later, since its files may still be on their way. Knows no Nuclio.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from casebook.errors import AngioloopError, ModelError
from casebook.handler import Handler

Tell = Callable[[str, dict[str, str]], None]
"""A line of log: what happened, and its fields."""


W = TypeVar("W")
"""What the pointer says: a model's id, or all that decides which models serve."""


class LiveModel(Generic[W]):
    """Hands out the handler of the model the pointer names, or of the last one that worked."""

    def __init__(
        self,
        pointer: Callable[[], W | None],
        load: Callable[[W | None], Handler],
        tell: Tell,
        *,
        retry_s: float = 10.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the model in use.

        Args:
            pointer: what to use, compared with what is used; nothing is the bare base.
            load: a handler over what the pointer says.
            tell: where swaps and refusals are logged.
            retry_s: wait before a refused model is tried again.
            clock_s: seconds that never go back.
        """
        self._pointer = pointer
        self._load = load
        self._tell = tell
        self._retry_s = retry_s
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._handler: Handler | None = None
        self._loaded: W | None = None
        self._refused: tuple[W | None, float, str] | None = None
        self._loading: threading.Thread | None = None
        wanted = self._wanted()
        if self._refused is None:
            self._try(wanted)

    def handler(self) -> Handler:
        """The handler to answer this request with.

        Raises:
            ModelError: no model could be loaded so far.
        """
        wanted = self._wanted()
        with self._lock:
            if self._due(wanted):
                self._loading = threading.Thread(
                    target=self._try, args=(wanted,), name="angioloop-load", daemon=True
                )
                self._loading.start()
            if self._handler is None:
                reason = self._refused[2] if self._refused else "the first one is still loading"
                raise ModelError(f"no model to answer with: {reason}")
            return self._handler

    def settle(self, timeout_s: float = 60.0) -> None:
        """Wait until no model is being loaded."""
        thread = self._loading
        if thread is not None:
            thread.join(timeout_s)

    def _wanted(self) -> W | None:
        try:
            return self._pointer()
        except (AngioloopError, OSError) as problem:
            if self._refused is None or self._refused[2] != str(problem):
                self._refused = (self._loaded, self._clock_s(), str(problem))
                self._tell("the pointer to the model cannot be read", {"reason": str(problem)})
            return self._loaded

    def _due(self, wanted: W | None) -> bool:
        if self._loading is not None and self._loading.is_alive():
            return False
        if self._handler is not None and wanted == self._loaded:
            return False
        if self._refused is None or self._refused[0] != wanted:
            return True
        return self._clock_s() - self._refused[1] >= self._retry_s

    def _try(self, wanted: W | None) -> None:
        name = "the bare base" if wanted is None else str(wanted)
        reason = "it met a bug; the log says where"
        handler: Handler | None = None
        try:
            handler = self._load(wanted)
        except AngioloopError as problem:
            reason = str(problem)
        finally:
            with self._lock:
                if handler is None:
                    self._refused = (wanted, self._clock_s(), reason)
                else:
                    self._handler, self._loaded, self._refused = handler, wanted, None
        if handler is None:
            self._tell("model refused; the one in use serves on", {"model": name, "reason": reason})
        else:
            self._tell("model in use", {"model": handler.model_id})
