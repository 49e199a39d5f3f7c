"""Something that a thread makes while its user does something else, and waits for in the end."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

LOOK_EVERY_S = 0.2

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """What a thread makes; one that nobody waits for any more ends with the process.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: list[Made] = []
        self._error: Exception | None = None
        self._began = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)

    def begin(self) -> "Ahead[Made]":
        """Begin now, if it has not."""
        if self._thread.ident is None:
            self._began = time.monotonic()
            self._thread.start()
        return self

    @property
    def seconds(self) -> float | None:
        """How long it has been at work; None where it is not."""
        return time.monotonic() - self._began if self._thread.is_alive() else None

    def _work(self) -> None:
        try:
            self._made.append(self._make())
        except Exception as error:
            self._error = error

    def settle(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until it is no longer at work, and call `meanwhile` now and then."""
        while self._thread.is_alive():
            meanwhile()
            self._thread.join(LOOK_EVERY_S)

    def result(self, meanwhile: Callable[[], None] = lambda: None) -> Made:
        """Wait for what is made, and call `meanwhile` now and then.

        Raises:
            Exception: what `make` raised.
        """
        self.begin().settle(meanwhile)
        if self._error is not None:
            raise self._error
        return self._made[0]
