"""What a study may claim about one variant on one metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

ALPHA = 0.05  # how often a difference may be claimed if there is none


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A variant's mean, and its difference from the baseline."""

    name: str
    n: int
    """Runs that finished."""
    mean: float | None
    sd: float | None
    """Standard deviation over seeds."""
    difference: float | None = None
    """The variant's mean minus the baseline's; where runs are paired, over the seeds that all variants share."""
    interval: tuple[float, float] | None = None
    """Of the difference, for all variants together; None with fewer than two seeds, or when all runs agree exactly."""
    p: float | None = None
    """How often chance alone gives so large a difference in any of the variants."""
    verdict: str | None = None
    """`better`, `worse` or `not distinguishable`; None if nothing can be claimed, and for the baseline."""
    seeds_needed: int | None = None
    """Seeds that find a difference of this size four times in five; None above 10,000."""

    def scaled(self, factor: float) -> "Verdict":
        """Return the verdict in another unit."""
        parts = {key: getattr(self, key) for key in ("mean", "sd", "difference")}
        numbers: dict[str, Any] = {
            key: None if value is None else factor * value for key, value in parts.items()
        }
        if self.interval is not None:
            numbers["interval"] = (factor * self.interval[0], factor * self.interval[1])
        return replace(self, **numbers)

    def sentence(self, baseline: str, unit: str, digits: int = 4) -> str:
        """Say it in plain English.

        Args:
            baseline: what the variant is compared with.
            unit: of the metric.
            digits: decimals.
        """
        if self.difference is None:
            return f"{self.name}: no finished run to compare with {baseline}."
        if self.interval is None or self.verdict is None:
            return (
                f"{self.name} differs from {baseline} by {self.difference:+.{digits}f} {unit} in these runs; they "
                "allow no claim about new runs, which takes two seeds or more that differ."
            )
        low, high = self.interval
        if self.verdict == "not distinguishable":
            seeds = self.seeds_needed
            needed = f"; about {seeds:,} seeds would show a difference of this size" if seeds else ""
            return (
                f"{self.name} is not distinguishable from {baseline}: measured {self.difference:+.{digits}f} "
                f"{unit} ({100 * (1 - ALPHA):.0f} % interval {low:+.{digits}f} to {high:+.{digits}f}){needed}."
            )
        # The words carry the sign, so the numbers need none.
        least, most = (low, high) if self.difference > 0 else (-high, -low)
        return (
            f"{self.name} is {self.verdict} than {baseline} by {abs(self.difference):.{digits}f} {unit} "
            f"({100 * (1 - ALPHA):.0f} % interval {least:.{digits}f} to {most:.{digits}f})."
        )


def verdict_of(difference: float, p: float, *, lower_is_better: bool) -> str:
    """Return the verdict on a difference."""
    if p >= ALPHA:
        return "not distinguishable"
    return "better" if (difference < 0) == lower_is_better else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests so that they hold together.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and the standard deviation; None if there are too few values."""
    n = len(values)
    if not n:
        return None, None
    mean = math.fsum(values) / n
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)) if n > 1 else None
