"""Two models on the same items: does one of them know more?

Items that both get right or both get wrong say nothing about the difference, so a paired comparison sees
differences that two scores with their own errors hide.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gptlab.errors import TaskError
from gptlab.eval.accuracy import Accuracy, mean

LIKELY = 0.05  # a p-value below this is called a difference
CRITICAL = 1.96  # standard errors on each side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Difference:
    """What the second model gains over the first; fractions of the items."""

    metric: str
    gained: int
    """Items that only the second has right."""
    lost: int
    """Items that only the first has right."""
    n: int
    difference: float
    stderr: float | None
    """Paired standard error of the difference; None of a single item."""
    p: float
    """Two-sided exact p-value of McNemar's test, that both are equally often right."""

    def facts(self) -> dict[str, Any]:
        """Return the numbers."""
        return {key: value for key, value in asdict(self).items() if key != "metric"}

    def sentence(self, first: str, second: str) -> str:
        """Say in words whether they differ."""
        net = self.gained - self.lost
        items = "item" if abs(net) == 1 else "items"
        more = f"on {abs(net):,} {items} {'more' if net > 0 else 'fewer'} than" if net else "as often as"
        said = f"by {self.metric} {second} is right {more} {first}, of {self.n:,} items"
        if self.stderr is None:
            return f"{said}; a single one says nothing"
        verdict = "they differ" if self.p < LIKELY else "no difference is shown"
        noise = 100 * CRITICAL * self.stderr
        return (
            f"{said} ({100 * self.difference:+.2f} points +- {100 * self.stderr:.2f}, p = {self.p:.2g}): {verdict}"
            + (f"; at this n a difference under {noise:.1f} points is noise" if noise else "")
        )


@dataclass(frozen=True)
class Shift:
    """How much further the second model prefers the right choice, in nats for a unit of length."""

    difference: float
    stderr: float | None
    """Paired standard error; None of a single item."""

    def facts(self) -> dict[str, Any]:
        """Return the numbers."""
        return asdict(self)

    def sentence(self, first: str, second: str) -> str:
        """Say in words what the margins do."""
        error = f" +- {self.stderr:.4f}" if self.stderr is not None else ""
        clear = self.stderr is not None and abs(self.difference) > CRITICAL * self.stderr
        return (
            f"the margin of the right choice in {second} is {self.difference:+.4f}{error} nats from {first}'s: "
            + ("they differ" if clear else "no difference is shown")
        )


def difference(metric: str, first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare which items two models have right.

    Raises:
        TaskError: they were not asked the same items.

    Source: McNemar (1947), https://doi.org/10.1007/BF02295996, with the exact binomial distribution.
    """
    if len(first) != len(second) or not first:
        raise TaskError(
            f"{len(first)} items of one model, {len(second)} of the other: ask both the same ones"
        )
    steps = [int(b) - int(a) for a, b in zip(first, second, strict=True)]
    average, stderr = mean(steps)
    gained, lost = steps.count(1), steps.count(-1)
    return Difference(metric, gained, lost, len(steps), average, stderr, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Return the probability of a split at least as uneven where either side is equally likely."""
    n, fewer = gained + lost, min(gained, lost)
    term, tail = 1, 0
    for k in range(fewer + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)


def compare(first: Accuracy, second: Accuracy) -> dict[str, Difference | Shift]:
    """Compare two models on the same items, in accuracy by both rules and in the margin.

    Raises:
        TaskError: the items are not the same.
    """
    scores = first, second
    if [row["label"] for row in first.rows] != [row["label"] for row in second.rows]:
        raise TaskError("the two models were asked different items; give both the same file and --limit")
    acc = [[row["pred"] == row["label"] for row in score.rows] for score in scores]
    acc_norm = [[row["pred_norm"] == row["label"] for row in score.rows] for score in scores]
    margins = [[row["margin"] for row in score.rows] for score in scores]
    return {
        "acc": difference("acc", *acc),
        "acc_norm": difference("acc_norm", *acc_norm),
        "margin": Shift(*mean([b - a for a, b in zip(*margins, strict=True)])),
    }
