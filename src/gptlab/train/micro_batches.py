"""A process's share of every batch, cut into micro-batches of one shape and read ahead.

A forward and backward pass is compiled for one shape, so a micro-batch that the share does not fill is padded with rows
that do not count.
"""

import math
from collections.abc import Iterator
from itertools import count

from torch import Tensor, nn

from gptlab.data.mixture import Batches
from gptlab.machine.world import World
from gptlab.model.loss import IGNORED
from gptlab.train.read_ahead import ReadAhead, SampleRange

AHEAD = 2  # micro-batches to read while one is computed


class MicroBatches:
    """The micro-batches of this process in every batch."""

    def __init__(self, batches: Batches, batch_sequences: int, sequences: int, world: World) -> None:
        self.batch_sequences = batch_sequences
        """Sequences of a batch, over all processes."""
        self.sequences = sequences
        """Sequences of a micro-batch."""
        self.largest_share = math.ceil(batch_sequences / world.size)
        """Sequences of the process with the largest share."""
        self.ahead = ReadAhead(self._read, self._following, AHEAD)
        """Reads the samples; a context manager, as it has a thread."""
        self._batches, self._world, self._first = batches, world, 0
        self._share = range(
            batch_sequences * world.rank // world.size, batch_sequences * (world.rank + 1) // world.size
        )

    def of(self, first: int) -> list[SampleRange]:
        """Return the micro-batches of this process in the batch that begins at sample `first`."""
        self._first = first
        return [(first + start, size) for start, size in self._in_batch()]

    def _in_batch(self) -> Iterator[SampleRange]:
        """Yield the start of each micro-batch within a batch, and its number of samples.

        DDP needs the same number of micro-batches in all processes; a smaller share may end with an empty one.
        """
        for start in range(0, self.largest_share, self.sequences):
            yield self._share.start + start, max(0, min(self.sequences, len(self._share) - start))

    def _following(self, current: SampleRange) -> Iterator[SampleRange]:
        """Yield the micro-batches that come after one of the current step."""
        for first in count(self._first, self.batch_sequences):
            for start, size in self._in_batch():
                if first + start > current[0]:
                    yield first + start, size

    def _read(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the ids and targets of some samples, padded with rows that do not count."""
        ids, targets = self._batches.batch(first, max(1, size))
        if size < self.sequences:
            empty = (0, 0, 0, self.sequences - size)
            ids = nn.functional.pad(ids[:size], empty)
            targets = nn.functional.pad(targets[:size], empty, value=IGNORED)
        if self._world.device.type == "cuda":
            return ids.pin_memory(), targets.pin_memory()
        return ids, targets
