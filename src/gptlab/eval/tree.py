"""Rows that hold several endings of one context, and the context once.

A row is a context followed by its endings. Every ending sees the context and itself, and its tokens have the
positions that they would have after the context alone; so one pass computes what a pass for each ending would,
and the context is computed once. The last token of an ending is never read, since nothing is predicted from it.

Axes: B batch, T time, N predicted tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gptlab.eval.item import Pair

# Most tokens of a row's endings, if there are several: attention's memory grows with the square of a row.
ROW_TOKENS = 512
PADDING = -1
CONTEXT = 0  # endings count from 1


@dataclass
class TreeRow:
    """A context and the endings that follow it, with the indices of their pairs."""

    context: list[int]
    endings: list[list[int]] = field(default_factory=list[list[int]])
    pairs: list[int] = field(default_factory=list[int])

    @property
    def length(self) -> int:
        """Tokens to read."""
        return len(self.context) + sum(len(ending) - 1 for ending in self.endings)


@dataclass(frozen=True)
class Batch:
    """Rows as tensors, padded at their ends, with the tokens to predict and their places."""

    ids_BT: Int[Tensor, "B T"]
    positions_BT: Int[Tensor, "B T"]
    parts_BT: Int[Tensor, "B T"]
    """CONTEXT, the number of an ending, or PADDING."""
    branching: bool
    """Whether any row has several endings; otherwise rows are plain texts."""
    token_indices_N: Int[Tensor, " N"]
    """Indices in the flattened rows of the tokens whose successors are predicted; in order."""
    targets_N: Int[Tensor, " N"]
    pairs_N: Int[Tensor, " N"]
    """The pair that a prediction belongs to."""


def cut(pair: Pair, context: int) -> Pair:
    """Drop the start of a pair that is too long for a model, so that it reads `context` tokens of it.

    Source: lm-evaluation-harness, models/huggingface.py, for where it cuts.
    """
    before, ending = pair
    if not excess(pair, context):
        return pair
    kept = ending[-context:]
    return (before + ending)[-context - 1 : -len(kept)], kept


def excess(pair: Pair, context: int) -> int:
    """Return how many tokens of a pair do not fit a model: those that `cut` drops."""
    return max(0, len(pair[0]) + len(pair[1]) - 1 - context)


def rows(pairs: Sequence[Pair], *, branching: bool) -> list[TreeRow]:
    """Lay pairs into rows; neighbours with the same context share a row, if rows may branch."""
    laid: list[TreeRow] = []
    for number, (context, ending) in enumerate(pairs):
        shared = branching and laid and laid[-1].context == context
        if not shared or len(context) + ROW_TOKENS < laid[-1].length + len(ending):
            laid.append(TreeRow(context))
        laid[-1].endings.append(ending)
        laid[-1].pairs.append(number)
    return laid


def batches(rows: Sequence[TreeRow], batch_tokens: int) -> Iterator[list[TreeRow]]:
    """Group rows of similar length, the longest first: memory runs out at once or never."""
    order = sorted(rows, key=lambda row: -row.length)
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // order[start].length)
        yield order[start : start + count]
        start += count


def batch(rows: Sequence[TreeRow]) -> Batch:
    """Turn rows into tensors, on the CPU."""
    width = max(row.length for row in rows)
    ids: list[list[int]] = []
    positions: list[list[int]] = []
    parts: list[list[int]] = []
    token_indices: list[int] = []
    targets: list[int] = []
    pairs: list[int] = []
    for number, row in enumerate(rows):
        before = len(row.context)
        row_ids, row_positions, row_parts = list(row.context), list(range(before)), [CONTEXT] * before
        start = number * width
        # The first tokens of all endings are predicted from the same place.
        token_indices += [start + before - 1] * len(row.endings)
        targets += [ending[0] for ending in row.endings]
        pairs += row.pairs
        for part, (ending, pair) in enumerate(zip(row.endings, row.pairs, strict=True), 1):
            more = len(ending) - 1
            token_indices += range(start + len(row_ids), start + len(row_ids) + more)
            targets += ending[1:]
            pairs += [pair] * more
            row_ids += ending[:-1]
            row_positions += range(before, before + more)
            row_parts += [part] * more
        padding = width - len(row_ids)
        # No token sees the padding of its row, so any id will do.
        ids.append(row_ids + [0] * padding)
        positions.append(row_positions + [0] * padding)
        parts.append(row_parts + [PADDING] * padding)
    return Batch(
        ids_BT=torch.tensor(ids),
        positions_BT=torch.tensor(positions),
        parts_BT=torch.tensor(parts),
        branching=any(len(row.endings) > 1 for row in rows),
        token_indices_N=torch.tensor(token_indices),
        targets_N=torch.tensor(targets),
        pairs_N=torch.tensor(pairs),
    )


def visible(positions_BT: Int[Tensor, "B T"], parts_BT: Int[Tensor, "B T"]) -> Bool[Tensor, "B T T"]:
    """Return which tokens each sees: those before it in the context and in its own ending, and itself."""
    not_later = positions_BT[:, None, :] <= positions_BT[:, :, None]
    its_own = (parts_BT[:, None, :] == CONTEXT) | (parts_BT[:, None, :] == parts_BT[:, :, None])
    return not_later & its_own
