"""Reading ahead: while a step computes, a thread fetches the samples of the next ones."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

SampleRange = tuple[int, int]  # how many samples come before it, and how many it has
T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Answers requests, and reads ahead those that `following` predicts.

    An unexpected request, as after a rollback, is answered too, and predictions restart from it. An error of the reader
    is raised where its answer is requested.

    Args:
        read: fetches an answer; called in one thread only.
        following: yields the requests after a given one.
        depth: how many answers to keep ready.
    """

    def __init__(
        self,
        read: Callable[[int, int], T],
        following: Callable[[SampleRange], Iterator[SampleRange]],
        depth: int,
    ) -> None:
        self._read, self._following, self._depth = read, following, depth
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._coming: deque[tuple[SampleRange, Future[T]]] = deque()
        self._next: Iterator[SampleRange] = iter(())
        self.waited_s = 0.0
        """How long answers have been waited for."""

    def __enter__(self) -> "ReadAhead[T]":
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def ask(self, first: int, count: int) -> T:
        """Return `read(first, count)`, at once if it was predicted."""
        if not self._coming or self._coming[0][0] != (first, count):
            self.forget()
            self._submit((first, count))
            self._next = self._following((first, count))
        while len(self._coming) <= self._depth and (request := next(self._next, None)) is not None:
            self._submit(request)
        began = time.perf_counter()
        answer = self._coming.popleft()[1].result()
        self.waited_s += time.perf_counter() - began
        return answer

    def forget(self) -> None:
        """Discard what was read ahead: the same request would now have another answer."""
        for _, answer in self._coming:
            answer.cancel()
        self._coming.clear()
        self._next = iter(())

    def _submit(self, request: SampleRange) -> None:
        self._coming.append((request, self._thread.submit(self._read, *request)))
