"""Watching the loss: too many bad steps in a row send the run back to a checkpoint.

A step is bad when its loss or gradient is not finite, so that its update is skipped, or when its loss is far above
those before it. Training recovers from most bad steps by itself, but not from many in a row. The cure is that of
PaLM: return to a checkpoint before them and skip the samples around them.

Source: Chowdhery et al. (2022), https://arxiv.org/abs/2204.02311, section 5.1.
"""

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from gptlab.parsing import typed
from gptlab.train.step_stats import StepStats

ROLLBACKS = 3  # more would hide the cause
WINDOW = 128  # earlier losses that a new one is compared with
SPIKE_NATS = 0.5  # nothing below it is a spike, however quiet the losses were
DEVIATION = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When a run returns to a checkpoint and skips samples."""

    patience: int = 20
    """Bad steps in a row before the run goes back; it also skips the samples of as many steps before them."""
    spike: float | None = 10.0
    """A loss this many robust standard deviations, and half a nat, above the last 128 is bad; None turns that off."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience = {self.patience}: must be at least 1")
        if self.spike is not None and not self.spike > 0:
            raise ValueError(f"spike = {self.spike}: must be above 0; use none to ignore spikes")


@dataclass
class GuardState:
    """What a guard has seen, as every checkpoint holds it."""

    bad: int
    """Bad steps in a row so far."""
    since: tuple[int, int]
    """Steps done and samples consumed before the first of them."""
    skipped: int
    """Updates skipped since the run began."""
    rollbacks: int
    """How often the run has gone back."""
    losses: list[float]
    """Those of the last good steps, WINDOW at most."""


class Guard:
    """The losses of a run so far, and its bad steps.

    A false alarm needs `patience` losses in a row above all in the window. Among 148 losses that vary at random, the
    20 largest come last once in 10^24 times, whatever their distribution.
    """

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.seen = GuardState(bad=0, since=(0, 0), skipped=0, rollbacks=0, losses=[])

    def judge(self, stats: StepStats, *, step: int, sample: int) -> str | None:
        """Judge a step, and return what is wrong with it; None if it is good.

        `step` and `sample` count those before it.
        """
        self.seen.skipped += not stats.finite
        if stats.overflow:
            # Expected while the loss scaler searches: it halves the scale and the next step tries again.
            return "the gradient overflows float16; the loss scale is halved"
        if not stats.finite:
            complaint = "the loss or gradient is not finite"
        elif stats.loss > self._bound():
            complaint = (
                f"loss {stats.loss:.4f} is far above the {statistics.median(self.seen.losses):.4f} before"
            )
        else:
            self.seen.losses = [*self.seen.losses, stats.loss][-WINDOW:]
            self.seen.bad = 0
            return None
        if not self.seen.bad:
            self.seen.since = step, sample
        self.seen.bad += 1
        return complaint

    def _bound(self) -> float:
        if self.config.spike is None or len(self.seen.losses) < WINDOW:
            return float("inf")
        middle = statistics.median(self.seen.losses)
        spread = DEVIATION * statistics.median(abs(loss - middle) for loss in self.seen.losses)
        return middle + max(self.config.spike * spread, SPIKE_NATS)

    @property
    def exhausted(self) -> bool:
        """Whether the run should go back to a checkpoint."""
        return self.seen.bad >= self.config.patience

    @property
    def rollback_limit(self) -> int | None:
        """The latest step whose checkpoint the run would go back to; None while all is well."""
        return max(0, self.seen.since[0] - self.config.patience) if self.seen.bad else None

    def state(self) -> dict[str, Any]:
        """Return the guard's state as JSON."""
        return asdict(self.seen)

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: the state is not a guard's.
        """
        self.seen = typed(GuardState, state)
