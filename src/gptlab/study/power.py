"""What a study can show: the smallest difference it finds, and the seeds that a difference needs."""

import math
from bisect import bisect_left
from typing import Literal

from gptlab.study.simultaneous import dunnett_critical, exceeds, root, sidak_critical
from gptlab.study.verdict import ALPHA

LOSS_SD = {"124M": (0.0013, 0.0020), "350M": (0.0006, 0.0008)}
"""Standard deviation of the final loss over seeds, in nats. Source: the records of KellerJordan/modded-nanogpt."""
HELLASWAG_SD = (0.0020, 0.0045)
"""Standard deviation of HellaSwag's accuracy over seeds at these sizes, as a fraction of all items."""
POWER = 0.8
MOST_SEEDS = 10_000

Variance = Literal["pooled", "unequal"]


def power_of(
    difference: float,
    sd: float,
    n: int,
    comparisons: int,
    *,
    paired: bool,
    variance: Variance = "pooled",
    floor: float = 0.0,
) -> float:
    """Return how often a study finds a true difference.

    Args:
        difference: between the means of a variant and the baseline.
        sd: standard deviation of runs over seeds, without what paired runs share.
        n: seeds of each variant, two or more.
        comparisons: variants besides the baseline.
        paired: whether the study compares runs seed by seed.
        variance: whether all variants share one estimate of the variance.
        floor: variance of the difference that more seeds do not reduce, as the choice of items makes it.

    Source: the noncentral t distribution; Satterthwaite (1946) for the degrees of freedom with a floor.
    """
    groups = {"pooled": comparisons + 1, "unequal": 2}[variance]
    df = (groups - 1 if paired else groups) * (n - 1)
    seeds = 2 * sd**2 / n
    shift = abs(difference) / math.sqrt(seeds + floor)
    if floor:
        df *= (1 + floor / seeds) ** 2
    if floor or variance == "unequal":
        t = sidak_critical(comparisons, df, ALPHA)
    else:
        t = dunnett_critical((1.0,) * comparisons, df, ALPHA)
    return exceeds(t, shift, df)


def detectable(
    sd: float,
    n: int,
    comparisons: int,
    *,
    paired: bool,
    variance: Variance = "pooled",
    floor: float = 0.0,
) -> float:
    """Return the smallest true difference that a study finds with POWER; arguments as in `power_of`."""

    def surplus(difference: float) -> float:
        found = power_of(difference, sd, n, comparisons, paired=paired, variance=variance, floor=floor)
        return found - POWER

    return root(surplus, 0.0, math.hypot(sd, math.sqrt(floor)))


def seeds_needed(
    difference: float,
    sd: float,
    comparisons: int,
    *,
    paired: bool,
    variance: Variance = "pooled",
    floor: float = 0.0,
) -> int | None:
    """Return the fewest seeds that find a difference with POWER; None above 10,000, or without a spread."""
    if not difference or not sd:
        return None

    def enough(n: int) -> bool:
        found = power_of(difference, sd, n, comparisons, paired=paired, variance=variance, floor=floor)
        return found >= POWER

    if not enough(MOST_SEEDS):
        return None
    return bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough)
