"""Being asked to stop, by a signal or by the clock, and stopping together."""

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
    """Remembers that somebody wants the run to end at the next good place.

    Args:
        max_hours: the time this process may use; None is no limit.
    """

    def __init__(self, max_hours: float | None = None) -> None:
        self.reason: str | None = None
        self.reserve_s = 0.0
        """How long before the end of its time the run should stop, so that it can save."""
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours

    def wanted(self) -> bool:
        """Say whether to stop, and keep the reason."""
        if (
            self.reason is None
            and self._deadline is not None
            and time.monotonic() > self._deadline - self.reserve_s
        ):
            self.reason = "the time given with --max-hours is used up"
        return self.reason is not None

    @contextmanager
    def listening(self) -> Generator["Interrupt"]:
        """Take SIGTERM, SIGINT and SIGUSR1 as wishes to stop; a second SIGINT stops at once.

        A terminal that goes away, SIGHUP, is none: training goes on without it.
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
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third need not wait for Python
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name


def together(work: Callable[[Callable[[], bool]], T], world: World, interrupt: Interrupt) -> T | None:
    """Do this process's share of a work, which all processes leave at the same moment.

    Args:
        work: calls what it is given before each batch, and ends early, in any way, when that says true. A call
            is a round in which all processes vote; those that are done go on voting until all are.
        world: the processes.
        interrupt: who may want to stop.

    Returns:
        What `work` returned, or None in every process where one was asked to stop, even if another failed.

    Raises:
        TrainError: the work failed in another process; where it failed, its own error.
    """
    stopped = over = False

    def vote(*, done: bool = False, failed: bool = False) -> int:
        nonlocal stopped, over
        wishes, finished, failures = world.count(interrupt.wanted(), done, failed)
        stopped = wishes > 0 and finished < world.size
        over = stopped or failures > 0  # all know it now, and nobody votes again
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
