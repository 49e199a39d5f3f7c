"""Samples that a run skips; with this list, the order of the data is still a pure function.

A sample's *count* says how many this run consumed before it; its *index* is its place in the data order. They differ
once samples have been skipped.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gptlab.data.mixture import Batches

Range = tuple[int, int]
"""The first and the last index of samples to skip."""


def index_of(count: int, skip: Iterable[Range]) -> int:
    """Return the index of the sample consumed after `count` others; `skip` must be sorted."""
    for first, last in skip:
        if count < first:
            break
        count += last - first + 1
    return count


def stretches(first: int, count: int, skip: list[Range]) -> Iterator[Range]:
    """Yield the samples consumed after `first` others, as pairs of first index and length."""
    while count:
        start = index_of(first, skip)
        length = min((begin - start for begin, _ in skip if begin > start), default=count)
        yield start, min(length, count)
        first, count = first + min(length, count), count - min(length, count)


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Sort ranges, and merge those that overlap or touch."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], last)
        else:
            result.append((first, last))
    return result


class BatchesWithSkips:
    """Batches without the samples of a skip list."""

    def __init__(self, batches: Batches) -> None:
        self.skip: list[Range] = []
        self._batches = batches

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        parts = [self._batches.batch(*stretch) for stretch in stretches(first, count, self.skip)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([ids for ids, _ in parts]), torch.cat([targets for _, targets in parts])
