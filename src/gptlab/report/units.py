"""The unit of losses that runs share: nats per token, or bits per byte where their tokenizers differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gptlab.runs.history import Run, as_number, validations

SAME_RATIO = 1e-4
"""Runs of one tokenizer that were validated on one text agree far better on its bytes a token."""
NATS, BITS = "nats per token", "bits per byte"


@dataclass(frozen=True)
class Unit:
    """A unit of losses, and each run's factor from nats per token; None for a run whose factor is not known."""

    name: str
    factors: tuple[float | None, ...]

    @property
    def bits(self) -> bool:
        """Whether it is bits per byte."""
        return self.name == BITS


def unit(runs: Sequence[Run]) -> Unit:
    """Return the unit in which the losses of these runs may share an axis.

    A token of one tokenizer is not a token of another, so nats per token compare only within one tokenizer. Runs keep
    no tokenizer, but its vocabulary size, and the bytes a token of their validation text.
    """
    ratios = [_bits_per_nat(run) for run in runs]
    sizes = {run.config.get("model.vocab_size") for run in runs}
    known = [ratio for ratio in ratios if ratio is not None]
    alike = not known or max(known) <= min(known) * (1 + SAME_RATIO)
    if len(runs) < 2 or (alike and len(sizes) == 1):
        return Unit(NATS, tuple(1.0 for _ in runs))
    return Unit(BITS, tuple(ratios))


def _bits_per_nat(run: Run) -> float | None:
    """Return the bits per byte of one nat a token, on the run's validation text."""
    for row in reversed(validations(run)):
        bits, loss = as_number(row.get("bits_per_byte")), as_number(row.get("loss"))
        if math.isfinite(bits) and bits > 0 and loss > 0:
            return bits / loss
    return None
