"""Samples that a run steps over: its order of the data stays a pure function, of this list too.

Samples are counted as a run consumes them, and numbered as the batches know them. Without a skip list both are
the same; with one, the numbers in it are never counted.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor

Range = tuple[int, int]
"""The first and the last number of samples to step over."""


def number(count: int, skip: Iterable[Range]) -> int:
    """Return the number of the sample that is consumed after `count` others; `skip` is in order."""
    for first, last in skip:
        if count < first:
            break
        count += last - first + 1
    return count


def stretches(first: int, count: int, skip: list[Range]) -> Iterator[Range]:
    """Yield as (first number, how many) the samples that are consumed after `first` others."""
    while count:
        start = number(first, skip)
        length = min((begin - start for begin, _ in skip if begin > start), default=count)
        yield start, min(length, count)
        first, count = first + min(length, count), count - min(length, count)


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Put ranges in order, and make one of those that overlap or touch."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = result[-1][0], max(result[-1][1], last)
        else:
            result.append((first, last))
    return result


class Batches(Protocol):
    """Where sequences come from: a pure function of the global sample's number."""

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Return the ids and the targets of the samples `first` to `first + count - 1`, each (count, T)."""
        ...


class Skipping:
    """Batches from which the samples of a skip list are left out."""

    def __init__(self, batches: Batches) -> None:
        self.skip: list[Range] = []
        self._batches = batches

    def batch(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        parts = [self._batches.batch(*stretch) for stretch in stretches(first, count, self.skip)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([ids for ids, _ in parts]), torch.cat([targets for _, targets in parts])
