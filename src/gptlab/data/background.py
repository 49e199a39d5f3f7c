"""A value that a thread computes while its user does something else."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

LOOK_EVERY_S = 0.2

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """A value that a thread computes; a thread that nobody waits for ends with the process."""

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: list[Made] = []
        self._error: Exception | None = None
        self._began = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def begin(self) -> "Ahead[Made]":
        """Start the thread, unless it has been started."""
        if self._thread.ident is None:
            self._began = time.monotonic()
            self._thread.start()
        return self

    @property
    def seconds(self) -> float | None:
        """How long the thread has been running; None if it is not."""
        return time.monotonic() - self._began if self._thread.is_alive() else None

    def _work(self) -> None:
        try:
            self._made.append(self._make())
        except Exception as error:
            self._error = error

    def settle(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until the thread has ended, if it was started, and call `meanwhile` now and then."""
        while self._thread.is_alive():
            meanwhile()
            self._thread.join(LOOK_EVERY_S)

    def result(self, meanwhile: Callable[[], None] = lambda: None) -> Made:
        """Wait for the value, and call `meanwhile` now and then.

        Raises:
            Exception: what `make` raised.
        """
        self.begin().settle(meanwhile)
        if self._error is not None:
            raise self._error
        return self._made[0]
