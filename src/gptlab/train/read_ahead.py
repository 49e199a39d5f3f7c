"""Batches read ahead: while a step computes, a thread fetches what the next ones ask for."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Request = tuple[int, int]  # the first sample's number, and how many
T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Answers requests in the order that `following` foretells, and reads some of them ahead.

    A request that was not foretold, as after a step back, is answered all the same, from there on anew. What the
    reader raises is raised where its answer is asked for.

    Args:
        read: fetches an answer; called in one thread only.
        following: yields the requests after a given one.
        depth: how many answers to have ready.
    """

    def __init__(
        self,
        read: Callable[[int, int], T],
        following: Callable[[Request], Iterator[Request]],
        depth: int,
    ) -> None:
        self._read, self._following, self._depth = read, following, depth
        self._thread = ThreadPoolExecutor(1, "read-ahead")
        self._coming: deque[tuple[Request, Future[T]]] = deque()
        self._next: Iterator[Request] = iter(())

    def __enter__(self) -> "ReadAhead[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def ask(self, first: int, count: int) -> T:
        """Return what `read(first, count)` returns, at once where it was foretold."""
        if not self._coming or self._coming[0][0] != (first, count):
            self.forget()
            self._order((first, count))
            self._next = self._following((first, count))
        while len(self._coming) <= self._depth and (request := next(self._next, None)) is not None:
            self._order(request)
        return self._coming.popleft()[1].result()

    def forget(self) -> None:
        """Throw away what was read ahead: the same request would now be answered differently."""
        for _, answer in self._coming:
            answer.cancel()
        self._coming.clear()
        self._next = iter(())

    def _order(self, request: Request) -> None:
        self._coming.append((request, self._thread.submit(self._read, *request)))
