"""A multiple-choice item, as every task hands it to the scorer."""

from dataclasses import dataclass

Pair = tuple[list[int], list[int]]
"""The ids of a context, at least one, and of the ending that follows it, at least one."""


@dataclass(frozen=True)
class Item:
    """A question whose answer is the pair that a model finds most likely."""

    pairs: tuple[Pair, ...]
    """The choices."""
    label: int
    """Number of the right choice, from 0."""
    lengths: tuple[int, ...]
    """What `acc_norm` divides a choice's log-likelihood by, in the protocol's own unit."""
