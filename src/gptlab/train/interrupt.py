"""Being asked to stop: by a signal, or by the clock."""

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Interrupt:
    """Remembers that somebody wants the run to end at the next good place.

    Args:
        max_hours: the time this process may use; None is no limit.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours

    def wanted(self) -> bool:
        """Say whether to stop, and keep the reason."""
        if self.reason is None and self._deadline is not None and time.monotonic() > self._deadline:
            self.reason = "the time given with --max-hours is used up"
        return self.reason is not None

    @contextmanager
    def listening(self) -> Generator["Interrupt"]:
        """Take SIGTERM, SIGINT and SIGUSR1 as wishes to stop; a second SIGINT stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
