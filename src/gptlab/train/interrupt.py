"""Requests to stop, from a signal or the clock, and how all processes stop together."""

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from gptlab.errors import TrainError
from gptlab.machine.world import World

T = TypeVar("T")

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class Interrupt:
    """Remembers that the run is asked to stop at the next good place.

    Args:
        max_hours: the time this process may use; None means no limit.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.reason: str | None = None
        self.reserve_s = 0.0
        """How long before the end of its time the run stops, so that it can save."""
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours

    def wanted(self) -> bool:
        """Return whether to stop, and keep the reason."""
        late = self._deadline is not None and time.monotonic() > self._deadline - self.reserve_s
        if self.reason is None and late:
            self.reason = "the time given with --max-hours is used up"
        return self.reason is not None

    @contextmanager
    def listening(self) -> Generator["Interrupt"]:
        """Treat SIGTERM, SIGINT and SIGUSR1 as requests to stop; a second SIGINT stops at once.

        SIGHUP, from a closed terminal, is ignored: training continues without it.
        """
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._take) for number in SIGNALS}
        if hasattr(signal, "SIGHUP"):
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.reason is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third one does not wait for Python
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


def together(work: Callable[[Callable[[], bool]], T], world: World, interrupt: Interrupt) -> T | None:
    """Do this process's share of some work, which all processes leave at the same moment.

    Args:
        work: is given a function, calls it before each batch, and ends early, in any way, once it returns true.
            Each call is a round in which all processes vote; finished ones keep voting until all are done.
        world: the processes.
        interrupt: the requests to stop.

    Returns:
        What `work` returned, or None in every process if one was asked to stop, even if another failed.

    Raises:
        TrainError: the work failed in another process; the failing one raises its own error.
    """
    stopped = over = False

    def vote(*, done: bool = False, failed: bool = False) -> int:
        nonlocal stopped, over
        requests, finished, failures = world.count(interrupt.wanted(), done, failed)
        stopped = requests > 0 and finished < world.size
        over = stopped or failures > 0  # now known to all, so nobody votes again
        if failures and not failed and not stopped:
            raise TrainError("another process could not do its share")
        return finished

    def stop() -> bool:
        vote()
        return stopped

    try:
        result = work(stop)
    except Exception:
        if not over:
            vote(done=True, failed=True)
        if stopped:
            return None
        raise
    while not stopped:
        if vote(done=True) == world.size:
            return result
    return None
