"""A multiple-choice item, as every task hands it to the scorer, and lists of them that take no memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

T_co = TypeVar("T_co", covariant=True)

Pair = tuple[list[int], list[int]]
"""The ids of a context and of the ending that follows it, at least one each."""


@dataclass(frozen=True)
class Item:
    """A question whose answer is the pair that a model finds most likely."""

    pairs: tuple[Pair, ...]
    """The choices; a single one is right if a model that always takes the likeliest token would write it."""
    label: int
    """Index of the right choice."""
    lengths: tuple[int, ...] = ()
    """What `acc_norm` divides a choice's log-likelihood by, in the protocol's unit; none if it has no `acc_norm`."""
    answer_bytes: int | None = None
    """UTF-8 bytes of the right choice; None if it is not known as text."""


class Lazy(Sequence[T_co], Generic[T_co]):
    """A list whose entries are made on access, so that its length costs no memory."""

    def __init__(self, make: Callable[[int], T_co], numbers: range) -> None:
        self._make, self._numbers = make, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> "Lazy[T_co]": ...
    def __getitem__(self, index: int | slice) -> "T_co | Lazy[T_co]":
        numbers = self._numbers[index]
        return Lazy(self._make, numbers) if isinstance(numbers, range) else self._make(numbers)
