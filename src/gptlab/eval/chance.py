"""Whether a score is above chance.

A share of right answers counts as above chance if guessing would reach it in fewer than one of twenty tries: the
exact one-sided binomial test at 95 %. That is about 1.6 standard errors, and holds for ten items as for ten thousand.
"""

import math

from gptlab.eval import continuation, hellaswag

UNLIKELY = 0.05
MANY = 100_000  # above this a normal distribution is as good, and scipy's sum may be NaN
CHANCE = {
    "hellaswag": 1 / hellaswag.CHOICES,
    "continuation": 1 / continuation.CHOICES,
    # A few questions of ARC have three or five answers; guessing gets 25 % of all to two digits.
    "arc_easy": 1 / 4,
    "arc_challenge": 1 / 4,
    "blimp": 1 / 2,
    "mmlu_continuation": 1 / 4,
    # The tasks of lm-evaluation-harness whose items all have the same number of choices.
    "copa": 1 / 2,
    "mmlu": 1 / 4,
    "openbookqa": 1 / 4,
    "piqa": 1 / 2,
    "sciq": 1 / 4,
    "winogrande": 1 / 2,
}
"""The share that guessing gets right, for tasks where it is known."""


def doubt(task: str, share: float, n: int) -> str | None:
    """Say that a share of right answers is not shown to be above chance; None if it is, or if chance is unknown.

    Args:
        task: the task's name.
        share: fraction of the items answered right.
        n: number of items.
    """
    chance = CHANCE.get(task)
    if chance is None or tail(min(max(round(share * n), 0), n), n, chance) < UNLIKELY:
        return None
    return f"not shown to be above chance ({100 * chance:.0f} %)"


def tail(right: int, n: int, chance: float) -> float:
    """Return the probability that guessing gets at least `right` of n items right."""
    if n > MANY:
        return math.erfc((right - 0.5 - n * chance) / math.sqrt(2 * n * chance * (1 - chance))) / 2
    from scipy.special import bdtrc  # here, as it takes a while to import

    return float(bdtrc(right - 1, n, chance))
