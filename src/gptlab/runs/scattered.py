"""Tensors whose elements several processes hold, on their way into one file.

The first process writes the file. The others send it what they hold piece by piece, in the order of the file, so that
no process ever has more than its own elements and a piece.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

PIECE = 1 << 22  # elements


@dataclass(frozen=True)
class Span:
    """The elements from `start` to `stop` of a flattened tensor, which one process holds."""

    rank: int
    start: int
    stop: int


class Link:
    """The way from every process to the first one; used by one thread at a time.

    Args:
        rank: this process's.
        group: a group of its own, on the CPU.
    """

    def __init__(self, rank: int, group: Any = None) -> None:
        self.rank, self._group, self._received = rank, group, 0

    @property
    def main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def begin(self) -> None:
        """Begin to send the tensors of a checkpoint."""
        self._received = 0

    def send(self, piece: Tensor) -> None:
        """Send elements to the first process."""
        dist.send(piece.contiguous(), 0, self._group)

    def receive(self, count: int, dtype: torch.dtype, rank: int) -> Tensor:
        """Receive elements from another process."""
        piece = torch.empty(count, dtype=dtype)
        self._received += 1
        dist.recv(piece, rank, self._group)
        return piece

    def drain(self, tensors: Sequence["Scattered"]) -> None:
        """Receive what is still to come of some tensors, in order, and drop it, after the file has failed."""
        coming = [
            (count, tensor.dtype, rank) for tensor in tensors for rank, count in tensor.pieces() if rank
        ]
        for piece in coming[self._received :]:
            with suppress(RuntimeError):  # a process that died says so elsewhere; the others still send
                self.receive(*piece)

    def broadcast_outcome(self, written: bool | None) -> bool:
        """Return in all processes whether the first one has written the file; only that one knows, others give None."""
        outcome = torch.tensor(int(bool(written)))
        dist.broadcast(outcome, 0, self._group)
        return bool(outcome)


@dataclass(frozen=True)
class Scattered:
    """A tensor whose elements several processes hold."""

    shape: torch.Size
    """Of the whole tensor."""
    spans: Sequence[Span]
    """Who holds which elements, in order and without gaps."""
    own: Tensor
    """The elements that this process holds, one behind the other."""
    link: Link

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the elements."""
        return self.own.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.shape.numel() * self.own.element_size()

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Yield the holder of every piece, and how many elements it has."""
        for span in self.spans:
            for start in range(span.start, span.stop, PIECE):
                yield span.rank, min(PIECE, span.stop - start)

    def stream(self) -> Iterator[Tensor]:
        """Yield all elements in order, in the first process; in the others, send it what they hold."""
        used, flat = 0, self.own.reshape(-1)
        for rank, count in self.pieces():
            if rank == self.link.rank:
                piece, used = flat[used : used + count], used + count
                if self.link.main:
                    yield piece
                else:
                    self.link.send(piece)
            elif self.link.main:
                yield self.link.receive(count, self.dtype, rank)
