"""Which documents are held out to validate, as a function of their hashes and lengths and of nothing else.

A document validates if the hash of its text lies below a threshold, which depends on the size of the whole source:
the same documents in any order, however small a part of it is prepared. Of many documents, those below it are about
what was asked for. Of few they may be anything, as one long document may be nearly all. Where they are well off,
documents validate in the order of their hashes until there are tokens enough, and the last one is cut if it is too
long: its end validates, its beginning trains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptlab.data.prepare.jobs import Documents

HASHES = 2**64
WELL_OFF = 1.5  # times as many tokens as were asked for, or as few
LARGE, SMALL = 2.0, 0.1  # times the usual, where nothing was asked for
LEAST = 512  # tokens that nobody minds then: up to LARGE times that, a window of GPT-2's, no document is cut
MANY = 100  # documents that validate: how long they are together is left to the law of large numbers
BIN_BITS = 16  # of a hash, by which tokens are counted, so that the documents of one bin only are in memory

Counted = Callable[[], Iterator[Documents]]
"""Goes through all documents that are kept, job by job."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How much is to validate."""

    fraction: float
    """Which part of the documents, by the estimated size of the whole source."""
    tokens: int | None
    """How many of the whole source; None where nobody said."""
    estimate: float
    """About how many there are in the whole source."""
    whole: bool
    """Whether all of it is prepared."""
    usual_fraction: float
    """Which part of what is prepared, where no document of it lies below the threshold, so that one is forced to."""


@dataclass(frozen=True)
class HoldOut:
    """Which documents validate."""

    below: int
    """Those whose hash is less."""
    tail: int = 0
    """How many tokens at the end of those validate that have just this hash."""
    enough: int | None = None
    """How many tokens they were chosen to have; None where the threshold is that of any part of the source."""

    def tokens(self, table: Documents) -> npt.NDArray[np.int64]:
        """Return how many tokens at the end of each document validate; it is cut behind two tokens at the least."""
        length = table["tokens"].astype(np.int64)
        tail = np.where(length - self.tail < 2, length, self.tail) if self.tail else np.zeros_like(length)
        below = np.uint64(self.below)
        return np.where(table["hash"] < below, length, np.where(table["hash"] == below, tail, 0))

    def cuts(self, table: Documents) -> int:
        """Count the documents that are cut."""
        tokens = self.tokens(table)
        return int(np.count_nonzero((tokens > 0) & (tokens < table["tokens"])))

    def __str__(self) -> str:
        said = f"documents whose hash is below {self.below:#018x}"
        if self.tail:
            said += f", and the last {self.tail:,} tokens of the one with that hash, whose beginning trains"
        if self.enough is None:
            return f"{said}: {self.below / HASHES:.3%} of all"
        return f"{said}: few documents in order of hash, until there were {self.enough:,} tokens"


def hold_out(asked: Asked, lowest: int, highest: int, counted: Counted) -> HoldOut:
    """Choose what validates: at least a part of one document, and never all.

    Args:
        asked: how much.
        lowest: the lowest hash of a document.
        highest: the highest, which is another.
        counted: goes through the documents, as often as it is called.
    """
    threshold = int(asked.fraction * HASHES)
    plain = HoldOut(min(max(threshold, lowest + 1), highest))
    total = held_out = documents = 0
    for table in counted():
        validating = plain.tokens(table)
        total += int(table["tokens"].sum())
        held_out += int(validating.sum())
        documents += int(np.count_nonzero(validating))
    wanted = _wanted(asked, total, few=documents < MANY, forced=threshold <= lowest)
    most, least = (LARGE, SMALL) if asked.tokens is None else (WELL_OFF, 1 / WELL_OFF)
    # In a part there may be few of those that validate in the whole.
    if asked.whole and held_out < least * wanted:
        return _in_order(wanted, counted)
    if asked.tokens is None:
        wanted = max(wanted, min(LEAST, total // 2))
    return _in_order(wanted, counted) if held_out > most * wanted else plain


def _wanted(asked: Asked, total: int, *, few: bool, forced: bool) -> int:
    """Return how many tokens are to validate, at most half of all.

    Args:
        asked: how much.
        total: how many tokens are prepared.
        few: whether few documents lie below the threshold; many are left alone, though it be by an estimate.
        forced: whether none does, so that one is taken all the same.
    """
    if not asked.whole:
        # As much as of the whole, so that what validates in the whole does so in a part of it.
        wanted = asked.fraction * max(total, asked.estimate)
        if forced:
            wanted = min(wanted, max(asked.fraction, asked.usual_fraction) * total)
    elif asked.tokens is not None and few:
        wanted = asked.tokens
    else:
        wanted = asked.fraction * total
    return max(min(int(wanted), total // 2), 1)


def _in_order(wanted: int, counted: Counted) -> HoldOut:
    """Take documents in the order of their hashes until there are so many tokens; equal ones are treated alike."""
    shift = np.uint64(64 - BIN_BITS)
    bins = np.zeros(2**BIN_BITS, np.int64)
    for table in counted():
        np.add.at(bins, (table["hash"] >> shift).astype(np.int64), table["tokens"].astype(np.int64))
    last = int(np.searchsorted(np.cumsum(bins), wanted))
    before = int(bins[:last].sum())
    within: dict[int, list[int]] = {}
    for table in counted():
        chosen = table[(table["hash"] >> shift) == last]
        for hash_, tokens in zip(chosen["hash"].tolist(), chosen["tokens"].tolist(), strict=True):
            within.setdefault(hash_, []).append(tokens)
    hash_ = min(within)
    for hash_ in sorted(within):
        if before + sum(within[hash_]) >= wanted:
            break
        before += sum(within[hash_])
    if before + sum(within[hash_]) <= WELL_OFF * wanted:
        return HoldOut(hash_ + 1, 0, wanted)
    return HoldOut(hash_, max((wanted - before) // len(within[hash_]), 1), wanted)
