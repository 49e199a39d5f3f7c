"""Which documents are held out to validate, as a function of their hashes and lengths only.

A document validates if the hash of its text is below a threshold, which depends on the size of the whole source. So the
same documents validate in any order and however little of the source is prepared. Among many documents this holds out
about as many tokens as asked for. Among few it may hold out far more or less, as one long document may be most of the
text. Then documents validate in the order of their hashes until there are enough tokens, and the last one is cut if it
is too long: its end validates, its beginning trains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gptlab.data.prepare.jobs import Documents

HASHES = 2**64
FAR_OFF = 1.5  # times as many tokens as asked for, or as few
LARGE, SMALL = 2.0, 0.1  # the same, times the usual, if the user asked for no number
LEAST = 512  # if so, no document is cut for up to LARGE times this, which is one window of GPT-2's
MANY = 100  # validating documents: the law of large numbers takes care of their length
BIN_BITS = 16  # of a hash; tokens are counted by bin, so that only the documents of one bin are in memory

Counted = Callable[[], Iterator[Documents]]
"""Goes through all documents to be dealt, job by job."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """How much text to hold out."""

    fraction: float
    """The fraction of documents, by the estimated size of the whole source."""
    tokens: int | None
    """How many tokens of the whole source; None if the user did not say."""
    estimate: float
    """About how many tokens the whole source has."""
    whole: bool
    """Whether the whole source is prepared."""
    usual_fraction: float
    """The fraction of what is prepared if none of its documents is below the threshold and one must be held out."""


@dataclass(frozen=True)
class HoldOut:
    """Which documents validate."""

    below: int
    """Documents with a lower hash validate."""
    tail: int = 0
    """How many tokens validate at the end of documents with exactly this hash."""
    enough: int | None = None
    """How many tokens they were chosen to have; None for a plain threshold, the same for any part of the source."""

    def tokens(self, table: Documents) -> npt.NDArray[np.int64]:
        """Return how many tokens at the end of each document validate; a cut leaves at least two to train on."""
        length = table["tokens"].astype(np.int64)
        tail = np.where(length - self.tail < 2, length, self.tail) if self.tail else np.zeros_like(length)
        below = np.uint64(self.below)
        return np.where(table["hash"] < below, length, np.where(table["hash"] == below, tail, 0))

    def cuts(self, table: Documents) -> int:
        """Count the documents to cut."""
        tokens = self.tokens(table)
        return int(np.count_nonzero((tokens > 0) & (tokens < table["tokens"])))

    def __str__(self) -> str:
        said = f"documents whose hash is below {self.below:#018x}"
        if self.tail:
            said += f", and the last {self.tail:,} tokens of the one with that hash, whose beginning trains"
        if self.enough is None:
            return f"{said}: {self.below / HASHES:.3%} of all"
        return f"{said}: documents in order of hash until there were {self.enough:,} tokens, as there are few"


def hold_out(asked: Asked, lowest: int, highest: int, counted: Counted) -> HoldOut:
    """Choose what validates: at least part of one document, and never all; the lowest and highest hash differ."""
    threshold = int(asked.fraction * HASHES)
    plain = HoldOut(min(max(threshold, lowest + 1), highest))
    total = held_out = documents = 0
    for table in counted():
        validating = plain.tokens(table)
        total += int(table["tokens"].sum())
        held_out += int(validating.sum())
        documents += int(np.count_nonzero(validating))
    wanted = _wanted(asked, total, few=documents < MANY, forced=threshold <= lowest)
    most, least = (LARGE, SMALL) if asked.tokens is None else (FAR_OFF, 1 / FAR_OFF)
    # A small part of a source may have few of the documents that validate in the whole.
    if asked.whole and held_out < least * wanted:
        return _in_order(wanted, counted)
    if asked.tokens is None:
        wanted = max(wanted, min(LEAST, total // 2))
    return _in_order(wanted, counted) if held_out > most * wanted else plain


def _wanted(asked: Asked, total: int, *, few: bool, forced: bool) -> int:
    """Return how many tokens to hold out, at most half of all.

    Args:
        asked: how much.
        total: how many tokens are prepared.
        few: whether few documents are below the threshold; if many are, the threshold stands, though estimated.
        forced: whether none is, so that one is held out anyway.
    """
    if not asked.whole:
        # As many as in the whole, so that documents that validate in the whole also validate in a part of it.
        wanted = asked.fraction * max(total, asked.estimate)
        if forced:
            wanted = min(wanted, max(asked.fraction, asked.usual_fraction) * total)
    elif asked.tokens is not None and few:
        wanted = asked.tokens
    else:
        wanted = asked.fraction * total
    return max(min(int(wanted), total // 2), 1)


def _in_order(wanted: int, counted: Counted) -> HoldOut:
    """Hold out documents in the order of their hashes until there are `wanted` tokens; equal hashes stay together."""
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
    if before + sum(within[hash_]) <= FAR_OFF * wanted:
        return HoldOut(hash_ + 1, 0, wanted)
    return HoldOut(hash_, max((wanted - before) // len(within[hash_]), 1), wanted)
