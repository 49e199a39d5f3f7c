"""Watching over the loss: bad steps are counted, and too many in a row take the run back.

A step is bad when its loss or gradient is not finite, so that its update was left out, or when its loss is far
above those before it. One bad step is nothing: most heal by themselves. Many in a row do not, and the cure is
that of PaLM: back to a checkpoint before them, and over the samples around them.

Source: Chowdhery et al. (2022), https://arxiv.org/abs/2204.02311, section 5.1.
"""

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

from gptlab.parsing import typed
from gptlab.train.gradient import Gradient

ROLLBACKS = 3  # more would hide what is wrong
WINDOW = 128  # losses that a new one is compared with
SPIKE_NATS = 0.5  # nothing below it is a spike, however quiet the losses were
DEVIATION = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When a run goes back to a checkpoint and steps over samples."""

    patience: int = 20
    """Bad steps in a row after which the run goes back; as many samples before them are stepped over too."""
    spike: float | None = 10.0
    """A loss so many robust standard deviations above the last 128, and half a nat, is bad; None looks at none."""

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"patience = {self.patience}: must be at least 1")
        if self.spike is not None and not self.spike > 0:
            raise ValueError(f"spike = {self.spike}: must be above 0; write none to look for no spikes")


@dataclass
class Guard:
    """The losses of a run so far, and what is wrong with the last of them.

    A false alarm takes `patience` losses in a row above all of the window: of losses that only vary, 20 of 148
    happen to stand in that order once in 10^24 times, whatever their distribution.
    """

    config: GuardConfig

    def __post_init__(self) -> None:
        self.bad = 0
        """Bad steps in a row, up to now."""
        self.since: tuple[int, int] = (0, 0)
        """Steps done and samples consumed before the first of them."""
        self.skipped = 0
        """Updates left out since the run began."""
        self.rollbacks = 0
        """How often the run has gone back."""
        self._losses: deque[float] = deque(maxlen=WINDOW)

    def judge(self, gradient: Gradient, *, step: int, sample: int) -> str | None:
        """Take note of a step; return what is wrong with it, None if nothing is.

        Args:
            gradient: what was found.
            step: steps done before it.
            sample: samples consumed before it.
        """
        self.skipped += not gradient.finite
        if gradient.overflow:
            # The scale of float16 feels its way: it is halved, and the next step is another try.
            return "the gradient overflows float16; its scale is halved"
        if not gradient.finite:
            complaint = "loss or gradient is not finite"
        elif gradient.loss > self._bound():
            complaint = (
                f"loss {gradient.loss:.4f} is far above the {statistics.median(self._losses):.4f} before"
            )
        else:
            self._losses.append(gradient.loss)
            self.bad = 0
            return None
        if not self.bad:
            self.since = step, sample
        self.bad += 1
        return complaint

    def _bound(self) -> float:
        if self.config.spike is None or len(self._losses) < WINDOW:
            return float("inf")
        middle = statistics.median(self._losses)
        spread = DEVIATION * statistics.median(abs(loss - middle) for loss in self._losses)
        return middle + max(self.config.spike * spread, SPIKE_NATS)

    @property
    def exhausted(self) -> bool:
        """Whether the run should go back."""
        return self.bad >= self.config.patience

    @property
    def good(self) -> int | None:
        """The last step of which the run may have to take up the checkpoint; None while all is well."""
        return max(0, self.since[0] - self.config.patience) if self.bad else None

    def state(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "bad": self.bad,
            "since": list(self.since),
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "losses": list(self._losses),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned.

        Raises:
            ValueError: it is nothing of that kind.
        """
        saved = typed(_Saved, state)
        self.bad, self.since, self.skipped = saved.bad, saved.since, saved.skipped
        self.rollbacks, self._losses = saved.rollbacks, deque(saved.losses, maxlen=WINDOW)


@dataclass(frozen=True)
class _Saved:
    """What `state` returns."""

    bad: int
    since: tuple[int, int]
    skipped: int
    rollbacks: int
    losses: list[float]
