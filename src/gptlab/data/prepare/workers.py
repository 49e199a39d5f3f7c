"""A pure function over many pieces of work, in this process or in several."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from gptlab.errors import DataError

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def spread(
    function: Callable[[Piece], Result], pieces: Sequence[Piece], workers: int
) -> Generator[tuple[Piece, Result], None, None]:
    """Apply a function to every piece and yield each with its result, in the order in which they are done.

    Args:
        function: sent to each process once, and so may be an object that holds much.
        pieces: sent one by one.
        workers: how many processes.

    Raises:
        DataError: a process ended abruptly.
    """
    workers = min(workers, len(pieces))
    if workers <= 1:
        for piece in pieces:
            yield piece, function(piece)
        return
    # Spawned, not forked: this process may hold threads and a GPU, which no child must inherit.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (function,))
    try:
        running = {pool.submit(_work, piece): piece for piece in pieces}
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
    """Begin a worker process: Ctrl-C is its parent's to answer, whom it does not outlive."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(piece: Any) -> Any:
    return _function(piece)
