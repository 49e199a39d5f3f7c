"""Applying a pure function to many items, in this process or in several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from gptlab.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Generator[tuple[Item, Result]]:
    """Apply a function to every item, and yield each with its result, in the order in which they are done.

    Args:
        function: sent to each process once, so it may be a large object.
        items: sent one by one.
        workers: how many processes.

    Raises:
        DataError: a process ended abruptly.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    # Spawned, not forked: this process may hold threads and a GPU, which no child must inherit.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (function,))
    try:
        running = {pool.submit(_work, item): item for item in items}
        for future in as_completed(running):
            yield running.pop(future), future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process ended abruptly, as happens when memory runs out; run again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _start(function: Callable[[Any], Any]) -> None:
    global _function
    _function = function
    start_worker()


def start_worker() -> None:
    """Set up a worker process: it leaves Ctrl-C to its parent, and ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: Any) -> Any:
    return _function(item)
