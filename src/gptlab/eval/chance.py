"""Whether a score is above what guessing gives.

A share of right answers is called above chance where guessing would come so far or further in less than one of
twenty tries: the exact binomial test, one-sided, at 95 %. That is about 1.6 standard errors, and right for ten
items as for ten thousand.
"""

import math

from gptlab.eval import continuation, hellaswag

UNLIKELY = 0.05
MANY = 100_000  # of so many items the sum has too many terms, and a normal distribution is as good
CHANCE = {
    "hellaswag": 1 / hellaswag.CHOICES,
    "continuation": 1 / continuation.CHOICES,
    # Of lm-evaluation-harness's tasks: those whose items all have equally many choices.
    "copa": 1 / 2,
    "openbookqa": 1 / 4,
    "piqa": 1 / 2,
    "sciq": 1 / 4,
    "winogrande": 1 / 2,
}
"""The share that guessing gets right, of tasks of which it is known."""


def doubt(task: str, share: float, n: int) -> str | None:
    """Say that a share of right answers is not shown to be above chance; None where it is, or chance is not known.

    Args:
        task: whose items were asked.
        share: of the items that were right.
        n: how many items there are.
    """
    chance = CHANCE.get(task)
    if chance is None or tail(min(max(round(share * n), 0), n), n, chance) < UNLIKELY:
        return None
    return f"not shown to be above chance ({100 * chance:.0f} %)"


def tail(right: int, n: int, chance: float) -> float:
    """Return how likely guessing has at least so many of n items right."""
    if n > MANY:
        return math.erfc((right - 0.5 - n * chance) / math.sqrt(2 * n * chance * (1 - chance))) / 2
    term = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(chance) + (n - k) * math.log1p(-chance)
        for k in range(right, n + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, term)))
