"""Applying a function to many items, in this process or in several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from gptlab.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    remedy: str = "run again with fewer workers",
) -> Generator[tuple[Item, Result]]:
    """Apply a function to every item, and yield each with its result, in the order in which they are done.

    The function is sent to each process once, so it may be a large object. Items are taken as they are needed, a few
    ahead of the workers. Closing the generator stops them, as `stopped` tells the function.

    Raises:
        DataError: a process ended abruptly.
    """
    waiting = iter(items)
    first = list(islice(waiting, 2 if workers > 1 else 0))
    waiting = chain(first, waiting)
    if len(first) < 2:
        for item in waiting:
            yield item, function(item)
        return
    # Spawned, not forked: this process may hold threads and a GPU, which no child must inherit.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start, (function, stop.is_set))
    running: dict[Future[Any], Item] = {}
    try:
        for item in islice(waiting, 2 * workers):
            running[pool.submit(_work, item)] = item
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield running.pop(future), result
                for item in islice(waiting, 1):
                    running[pool.submit(_work, item)] = item
    except BrokenProcessPool as error:
        raise DataError(
            f"a worker process ended abruptly, as happens when memory runs out; {remedy}"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def stopped() -> bool:
    """Say, in a worker, whether nobody wants its result any more."""
    return _stopped is not None and _stopped()


_function: Callable[[Any], Any]
_stopped: Callable[[], bool] | None = None


def _start(function: Callable[[Any], Any], stopped: Callable[[], bool]) -> None:
    """Set up a worker process: it leaves Ctrl-C to its parent, and ends when its parent does."""
    global _function, _stopped
    _function, _stopped = function, stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: Any) -> Any:
    return _function(item)
