"""A process's share of every batch, cut into passes of one shape and read ahead.

Passes are compiled for one shape, so one that the share does not fill is padded with rows that do not count.
"""

import math
from collections.abc import Iterator
from itertools import count

from torch import Tensor, nn

from gptlab.data.mixture import Order
from gptlab.machine.world import World
from gptlab.model.loss import IGNORED
from gptlab.train.read_ahead import ReadAhead, Request

AHEAD = 2  # passes to read while one is computed


class Slices:
    """The passes of this process over each batch."""

    def __init__(self, batches: Order, n_sequence: int, rows: int, world: World) -> None:
        self.n_sequence, self.rows = n_sequence, rows
        self.largest_share = math.ceil(n_sequence / world.size)
        """Sequences of the process with the largest share."""
        self.ahead = ReadAhead(self._read, self._following, AHEAD)
        """Reads the samples; a context manager, as it has a thread."""
        self._batches, self._world, self._first = batches, world, 0
        self._share = range(
            n_sequence * world.rank // world.size, n_sequence * (world.rank + 1) // world.size
        )

    def of(self, first: int) -> list[Request]:
        """Return the passes over this process's share of the batch that begins at sample `first`."""
        self._first = first
        return [(first + start, size) for start, size in self._passes()]

    def _passes(self) -> Iterator[Request]:
        """Yield the start of each pass within a batch, and its number of samples.

        DDP needs the same number of passes in all processes; a smaller share may end with an empty one.
        """
        for start in range(0, self.largest_share, self.rows):
            yield self._share.start + start, max(0, min(self.rows, len(self._share) - start))

    def _following(self, request: Request) -> Iterator[Request]:
        """Yield the requests that come after one of the current step."""
        for first in count(self._first, self.n_sequence):
            for start, size in self._passes():
                if first + start > request[0]:
                    yield first + start, size

    def _read(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the ids and targets of some samples, padded with rows that do not count."""
        ids, targets = self._batches.batch(first, max(1, size))
        if size < self.rows:
            empty = (0, 0, 0, self.rows - size)
            ids = nn.functional.pad(ids[:size], empty)
            targets = nn.functional.pad(targets[:size], empty, value=IGNORED)
        if self._world.device.type == "cuda":
            return ids.pin_memory(), targets.pin_memory()
        return ids, targets
