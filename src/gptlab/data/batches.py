"""Batches: the windows of a split's shards, in an order that is a pure function of (seed, sample index).

A window is context + 1 tokens of one shard, and the next begins context tokens later, so that each token is a target
once. Training draws windows without replacement, in a new order every epoch. The order is a permutation that is
computed, not stored: opening a set reads no tokens, and sample ten billion costs no more than the first.
"""

from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gptlab.data.manifest import Manifest
from gptlab.data.shards import Tokens, check_range
from gptlab.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 8  # four look random on large sets; a handful of windows needs a few more
OPEN_SHARDS = 128  # mapped at a time: each holds a file descriptor, and a process may have only 1,024

Numbers = npt.NDArray[np.uint64]


class Windows:
    """Every window of a split, numbered in the order of the text.

    The constructor reads the manifest and the files' sizes; a shard is opened when one of its windows is read.

    Raises:
        DataError: a shard is missing or damaged, or every shard is too short for a window.
    """

    def __init__(self, folder: str | Path, split: str, context: int) -> None:
        self.folder, self.split, self.context = Path(folder), split, context
        self.manifest = Manifest.load(self.folder)
        self._shards = self.manifest.split(split)
        for number, shard in enumerate(self._shards):
            path = self.folder / shard.file
            if not path.exists() or path.stat().st_size != shard.bytes:
                self._map(number)  # raises the error
        self._tokens = lru_cache(OPEN_SHARDS)(self._map)
        # A shard's last token has no successor: it can only be a target.
        self._ends = list(accumulate((shard.tokens - 1) // context for shard in self._shards))
        if not self._ends or self._ends[-1] == 0:
            longest = max((shard.tokens for shard in self._shards), default=0)
            raise DataError(
                f"{self.folder}: context {context:,} needs a {split} shard of {context + 1:,} tokens, but the "
                f"longest has {longest:,}; shorten the context or prepare more text"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, number: int) -> Tokens:
        """Map a window of context + 1 tokens."""
        shard, start = self._place(number)
        return self._tokens(shard)[start : start + self.context + 1]

    def batch(self, numbers: npt.ArrayLike) -> "tuple[Tensor, Tensor]":
        """Read windows as (ids_BT, targets_BT), int64; each target is the token after its id.

        Raises:
            DataError: a token is outside the vocabulary; names the shard and the position.
        """
        import torch

        wanted: list[int] = np.asarray(numbers).tolist()
        rows = np.empty((len(wanted), self.context + 1), np.uint16)
        for row, number in zip(rows, wanted, strict=True):
            row[:] = self[number]
        vocab_size = self.manifest.tokenizer.vocab_size
        if rows.max(initial=0) >= vocab_size:
            for row, number in zip(rows, wanted, strict=True):
                shard, start = self._place(number)
                path = self.folder / self._shards[shard].file
                check_range(row, vocab_size, path, start, f"delete it and {self.manifest.remedy}")
        ids, targets = rows[:, :-1].astype(np.int64), rows[:, 1:].astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(targets)

    def _map(self, shard: int) -> Tokens:
        return self.manifest.read_shard(self.folder, self._shards[shard])

    def _place(self, number: int) -> tuple[int, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"window {number:,} of {len(self):,}")
        shard = bisect_right(self._ends, number)
        before = self._ends[shard - 1] if shard else 0
        return shard, (number - before) * self.context


class TrainBatches:
    """Windows drawn without replacement, epoch after epoch, by global sample index.

    An index always gives the same window, so processes, micro-batches and resumed runs differ only in the indices
    that they ask for.
    """

    def __init__(self, windows: Windows, seed: int) -> None:
        self.windows, self.seed = windows, seed

    def samples(self, first: int, count: int) -> Numbers:
        """Return the window numbers of global samples first .. first + count - 1."""
        return self.windows_of(np.arange(first, first + count, dtype=np.uint64))

    def windows_of(self, index: Numbers) -> Numbers:
        """Return the window numbers of samples."""
        size = np.uint64(len(self.windows))
        return permute(index % size, len(self.windows), self.seed, index // size)

    def batch(self, first: int, count: int) -> "tuple[Tensor, Tensor]":
        """Read global samples first .. first + count - 1 as (ids_BT, targets_BT)."""
        return self.windows.batch(self.samples(first, count))


def validation_windows(windows: Windows, max_tokens: int | None = None) -> int:
    """Return how many windows, from the first on, hold at most `max_tokens` targets together; at least one."""
    if max_tokens is None:
        return len(windows)
    return min(max(max_tokens // windows.context, 1), len(windows))


def validation_batches(
    windows: Windows, rows: int, max_tokens: int | None = None, *, rank: int = 0, processes: int = 1
) -> "Iterator[tuple[Tensor, Tensor]]":
    """Read the first windows of a split in order, as (ids_BT, targets_BT) of at most `rows` rows.

    Args:
        windows: the windows to read.
        rows: how many windows a batch holds; the last may hold fewer.
        max_tokens: read at most this many targets, counted as in validation_windows.
        rank: which process reads, from 0.
        processes: how many processes read; each reads a contiguous range.
    """
    count = validation_windows(windows, max_tokens)
    start, stop = count * rank // processes, count * (rank + 1) // processes
    for first in range(start, stop, rows):
        yield windows.batch(np.arange(first, min(first + rows, stop)))


def permute(positions: Numbers, size: int, seed: int, epochs: Numbers) -> Numbers:
    """Permute positions 0 .. size - 1, differently for each (seed, epoch).

    A balanced Feistel network permutes the numbers below the smallest power of four that holds `size`. A position that
    it maps outside is mapped again until it is inside: at most four times on average, as the power is below 4 * size.

    Source: Luby and Rackoff 1988, "How to Construct Pseudorandom Permutations from Pseudorandom Functions";
    Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section 3 (cycle walking).
    """
    half = np.uint64(max((size - 1).bit_length() + 1, 2) // 2)
    keys = mix(mix(np.full_like(epochs, seed % 2**64)) ^ epochs)
    mapped = _feistel(positions, half, keys)
    outside = np.flatnonzero(mapped >= size)
    while outside.size:
        mapped[outside] = _feistel(mapped[outside], half, keys[outside])
        outside = outside[mapped[outside] >= size]
    return mapped


def _feistel(numbers: Numbers, half: np.uint64, keys: Numbers) -> Numbers:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for _ in range(ROUNDS):
        keys = mix(keys)
        left, right = right, left ^ (mix(right ^ keys) & mask)
    return (left << half) | right


def mix(numbers: Numbers) -> Numbers:
    """Scramble 64-bit numbers one to one, so that every bit depends on every bit.

    Source: Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators" (splitmix64).
    """
    numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
