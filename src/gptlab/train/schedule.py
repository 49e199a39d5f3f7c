"""The learning rate of every step, as a fraction of its peak."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal


def cosine(progress: float, decay_fraction: float) -> float:
    """Fall from 1 to 0 along half a cosine.

    Source: Loshchilov and Hutter (2017), https://arxiv.org/abs/1608.03983, eq. 5, without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * progress))


def wsd(progress: float, decay_fraction: float) -> float:
    """Stay at 1, then fall linearly to 0 over the last `decay_fraction`.

    Source: Hu et al. (2024), MiniCPM, https://arxiv.org/abs/2404.06395, sec. 4; the linear decay is from Haegele
    et al. (2024), https://arxiv.org/abs/2405.18392.
    """
    return min(1.0, (1 - progress) / decay_fraction)


def constant(progress: float, decay_fraction: float) -> float:
    """Stay at 1."""
    return 1.0


SCHEDULES = {"constant": constant, "cosine": cosine, "wsd": wsd}

if TYPE_CHECKING:
    ScheduleName = str
else:
    ScheduleName = Literal[tuple(SCHEDULES)]


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes from start to end."""

    name: ScheduleName = "cosine"
    """Shape after the warm-up; see train/schedule.py."""
    warmup_steps: int = 0
    """Steps in which the rate rises linearly to its peak."""
    warmup_start_fraction: float = 0.0
    """Where the warm-up starts, as a fraction of the peak; the first step is already one step above it."""
    final_fraction: float = 0.1
    """Where the decay ends, as a fraction of the peak; constant ignores it."""
    decay_fraction: float = 0.2
    """Fraction of the steps after warm-up, at their end, in which wsd decays; the other shapes ignore it."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: must be at least 0")
        for name in ("warmup_start_fraction", "final_fraction", "decay_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie between 0 and 1")
        if self.decay_fraction == 0:
            raise ValueError("decay_fraction = 0: must be above 0; use the constant schedule for no decay")


def rate(config: ScheduleConfig, step: int, progress: float) -> float:
    """Return the learning rate of the next update, as a fraction of the peak.

    `progress` is the fraction done of the steps after the warm-up.
    """
    if step < config.warmup_steps:
        start = config.warmup_start_fraction
        return start + (1 - start) * (step + 1) / config.warmup_steps
    shape = SCHEDULES[config.name](progress, config.decay_fraction)
    return config.final_fraction + (1 - config.final_fraction) * shape
