"""Mixtures: drawing from several prepared folders by weight, in an order that is a pure function.

Samples come in blocks of BLOCK. Each set has the same number of samples in every block, by its weight, at places that
a permutation chooses. So any process or resumed run finds any sample from its block alone.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gptlab.data.batches import Numbers, TrainBatches, Windows, permute
from gptlab.data.manifest import Manifest
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 4096  # so a set's share is its weight to within an eight-thousandth


@dataclass(frozen=True, kw_only=True)
class Part:
    """One set of a mixture."""

    path: str
    """A folder that `gptlab data prepare`, `fetch` or `adopt` made."""
    weight: float = 1.0
    """How much is drawn from it, relative to the other sets' weights."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(
                f"weight = {self.weight}: must be above 0 and finite; leave the set out to draw nothing from it"
            )


@dataclass(frozen=True)
class DataConfig:
    """What to train and validate on: one prepared folder, or a mixture of several."""

    path: str = "data"
    """A folder that `gptlab data prepare`, `fetch` or `adopt` made; with [[data.train]] it is not read."""
    train: tuple[Part, ...] = ()
    """Tables [[data.train]] of a mixture, each with a path and a weight; they replace path."""
    seed: int | None = None
    """Decides the order of the data; None is train.seed, which always decides the initial weights."""

    def __post_init__(self) -> None:
        paths = [str(Path(part.path)) for part in self.parts]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"train: names {path} twice; name it once, with the sum of its weights")

    @property
    def parts(self) -> tuple[Part, ...]:
        """The sets: one, or those of a mixture."""
        return self.train or (Part(path=self.path),)

    def order_seed(self, train_seed: int) -> int:
        """Return the seed of the order: its own, or else that of [train]."""
        return train_seed if self.seed is None else self.seed


@dataclass(frozen=True)
class Set:
    """A prepared folder as a run reads it."""

    path: str
    share: float
    """The fraction of samples drawn from it."""
    train: Windows
    val: Windows


class Batches(Protocol):
    """The samples of a run, by their global index."""

    def batch(self, first: int, count: int) -> "tuple[Tensor, Tensor]":
        """Read global samples first .. first + count - 1 as (ids_BT, targets_BT)."""
        ...


class Sets:
    """The sets of a run, and the order in which they are drawn from.

    Raises:
        DataError: a folder cannot be used, or the sets were made with different tokenizers.
    """

    def __init__(self, config: DataConfig, context: int, seed: int) -> None:
        manifests = [Manifest.load(part.path) for part in config.parts]
        first = manifests[0].tokenizer
        for part, manifest in zip(config.parts, manifests, strict=True):
            if manifest.tokenizer.hash != first.hash:
                raise DataError(
                    f"{part.path}: its tokenizer is {manifest.tokenizer}, but that of {config.parts[0].path} is "
                    f"{first}; prepare one of them again with the other's"
                )
        self.tokenizer: Tokenizer = manifests[0].load_tokenizer(config.parts[0].path)
        samples = share_block([part.weight for part in config.parts])
        self.sets = [
            Set(
                part.path,
                count / BLOCK,
                Windows(part.path, "train", context),
                Windows(part.path, "val", context),
            )
            for part, count in zip(config.parts, samples, strict=True)
        ]
        windows = [one.train for one in self.sets]
        self.batches: Batches = (
            TrainBatches(windows[0], seed) if len(windows) == 1 else Mixture(windows, samples, seed)
        )
        self.fingerprint = fingerprint([manifest.fingerprint for manifest in manifests], samples)

    def epochs(self, samples: int) -> dict[str, float]:
        """Return how many times each set has been seen after this many samples."""
        return {one.path: samples * one.share / len(one.train) for one in self.sets}


class Mixture:
    """Windows of several sets, by global sample index; `samples` are how many of each a block holds, together BLOCK."""

    def __init__(self, windows: Sequence[Windows], samples: Sequence[int], seed: int) -> None:
        # A different order in each set, or sets of the same size would go through their windows in step.
        self._draws = [TrainBatches(each, seed + number) for number, each in enumerate(windows)]
        self._samples = np.array(samples, np.uint64)
        self._ends = np.cumsum(self._samples)
        self._seed = -1 - seed
        self._block = lru_cache(4)(self._make_block)

    def samples(self, first: int, count: int) -> tuple[Numbers, Numbers]:
        """Return, for global samples first .. first + count - 1, each sample's set and its index in that set."""
        blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
        parts = [self._block(block) for block in blocks]
        inside = slice(first - blocks.start * BLOCK, first - blocks.start * BLOCK + count)
        which, numbers = (np.concatenate(sides)[inside] for sides in zip(*parts, strict=True))
        return which, numbers

    def _make_block(self, block: int) -> tuple[Numbers, Numbers]:
        index = np.arange(BLOCK, dtype=np.uint64)
        places = permute(index, BLOCK, self._seed, np.full_like(index, block))
        which = np.searchsorted(self._ends, places, side="right").astype(np.uint64)
        # The samples of a set keep their order, so that each is seen once before any is seen again.
        numbers = np.empty_like(which)
        for number, samples in enumerate(self._samples):
            numbers[which == number] = np.uint64(block) * samples + index[: int(samples)]
        return which, numbers

    def batch(self, first: int, count: int) -> "tuple[Tensor, Tensor]":
        """Read global samples first .. first + count - 1 as (ids_BT, targets_BT)."""
        import torch

        which, numbers = self.samples(first, count)
        context = self._draws[0].windows.context
        ids, targets = torch.empty(2, count, context, dtype=torch.int64)
        for number, draw in enumerate(self._draws):
            rows = np.flatnonzero(which == number)
            if rows.size:
                ids[rows], targets[rows] = draw.windows.batch(draw.windows_of(numbers[rows]))
        return ids, targets


def fingerprint(sets: Sequence[str], samples: Sequence[int]) -> str:
    """Return the fingerprint of a mixture: that of its only set, or a hash of all sets and their shares.

    `samples` are how many of each set a block holds.
    """
    if len(sets) == 1:
        return sets[0]
    shares = [f"{name} {count}/{BLOCK}" for name, count in zip(sets, samples, strict=True)]
    return hashlib.sha256("\n".join(shares).encode()).hexdigest()


def share_block(weights: Sequence[float]) -> list[int]:
    """Divide a block's samples by weight, by largest remainder, at least one to each set."""
    total = math.fsum(weights)
    exact = [max(BLOCK * weight / total, 1.0) for weight in weights]
    samples = [int(each) for each in exact]
    by_remainder = sorted(range(len(weights)), key=lambda number: samples[number] - exact[number])
    missing = BLOCK - sum(samples)
    for number in by_remainder[: max(missing, 0)]:
        samples[number] += 1
    # The largest set gives up what the smallest sets received beyond their weight.
    samples[samples.index(max(samples))] += min(missing, 0)
    return samples
