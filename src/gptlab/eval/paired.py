"""Two checkpoints on the same items or the same text: which scores higher, and how surely?

Items that both get right or both get wrong say nothing about the difference, so a paired comparison sees
differences that two scores with their own errors hide. It compares two checkpoints, and cannot see how far apart
two seeds of one recipe are. If no difference is shown, no sentence calls the two equal.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gptlab.errors import TaskError
from gptlab.eval.accuracy import Accuracy, mean

LIKELY = 0.05  # a p-value below this is called a difference
CRITICAL = 1.96  # standard errors on each side that hold 95 % of a normal distribution
CHECKPOINTS_ONLY = (
    "This compares two checkpoints and says nothing about their recipes: two seeds of one recipe differ too."
)

SHIFTS = (
    ("margin", "in the margin of the right choice", "nats"),
    ("answer_bits_per_byte", "in the right answer's bits per byte, of which fewer are better,", "bits"),
)
"""What two models are compared in besides their right answers: a key of an item's row, its name, and its unit."""


@dataclass(frozen=True)
class AccuracyDifference:
    """What the second model gains over the first, as fractions of the items."""

    metric: str
    gained: int
    """Items that only the second gets right."""
    lost: int
    """Items that only the first gets right."""
    n: int
    difference: float
    stderr: float | None
    """Paired standard error of the difference; None for a single item."""
    p: float
    """Two-sided exact p-value of McNemar's test that both are right equally often."""

    def facts(self) -> dict[str, Any]:
        """Return the numbers."""
        return {key: value for key, value in asdict(self).items() if key != "metric"}

    def sentence(self, first: str, second: str) -> str:
        """Say in words which scores higher on these items, or that this is not shown."""
        place = f"on these {self.n:,} items" if self.n > 1 else "on this one item"
        if self.stderr is None or not self.gained + self.lost:
            return f"by {self.metric} no difference is shown {place}" + (
                ": a single one says nothing" if self.stderr is None else ": both are right on the same ones"
            )
        apart = f"{100 * abs(self.difference):.2f} +- {100 * self.stderr:.2f} points"
        counts = f"{self.gained:,} that only it has right, {self.lost:,} that only {first} has"
        if self.p < LIKELY:
            way = "above" if self.difference > 0 else "below"
            return (
                f"by {self.metric} {second} scores {apart} {way} {first} {place} ({counts}, p = {self.p:.2g})"
            )
        low, high = (
            100 * min(1.0, max(-1.0, self.difference + side * CRITICAL * self.stderr)) for side in (-1, 1)
        )
        return (
            f"by {self.metric} no difference is shown {place}: {second} may score from {low:+.2f} to {high:+.2f} "
            f"points from {first} ({counts}, p = {self.p:.2g})"
        )


@dataclass(frozen=True)
class Shift:
    """How far the second model's mean is from the first's, over what both were asked."""

    what: str
    """What the mean is over, as the start of a sentence."""
    unit: str
    n: int
    difference: float
    stderr: float | None
    """Paired standard error; None for a single value."""

    @property
    def p(self) -> float:
        """Two-sided p-value of the normal test that the means are equal; 1 for a single value."""
        if not self.stderr:
            return float(not self.difference or self.stderr is None)
        return math.erfc(abs(self.difference) / self.stderr / math.sqrt(2))

    def facts(self) -> dict[str, Any]:
        """Return the numbers."""
        return {"difference": self.difference, "stderr": self.stderr, "n": self.n}

    def sentence(self, first: str, second: str) -> str:
        """Say in words whether the means differ."""
        if self.stderr is None:
            return f"{self.what} no difference is shown: a single one says nothing"
        apart = f"{abs(self.difference):.4f} +- {self.stderr:.4f} {self.unit}"
        if abs(self.difference) > CRITICAL * self.stderr:
            way = "above" if self.difference > 0 else "below"
            return f"{self.what} {second} is {apart} {way} {first}"
        low, high = (self.difference + side * CRITICAL * self.stderr for side in (-1, 1))
        return (
            f"{self.what} no difference is shown: {second} may be from {low:+.4f} to {high:+.4f} {self.unit} "
            f"from {first}"
        )


def difference(metric: str, first: Sequence[bool], second: Sequence[bool]) -> AccuracyDifference:
    """Compare which items two models get right.

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
    return AccuracyDifference(metric, gained, lost, len(steps), average, stderr, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Return the probability of a split at least as uneven if both sides are equally likely."""
    from scipy.special import bdtr  # here, as it takes a while to import

    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def compare(first: Accuracy, second: Accuracy) -> dict[str, AccuracyDifference | Shift]:
    """Compare two models on the same items, in all that the task measures of an item.

    Raises:
        TaskError: the items are not the same.
    """
    scores = first, second
    if [row["label"] for row in first.rows] != [row["label"] for row in second.rows]:
        raise TaskError("the two models were asked different items; give both the same file and --limit")
    acc = [[row["pred"] == row["label"] for row in score.rows] for score in scores]
    acc_norm = [[row["pred_norm"] == row["label"] for row in score.rows] for score in scores]
    found: dict[str, AccuracyDifference | Shift] = {"acc": difference("acc", *acc)}
    if first.acc_norm is not None:
        found["acc_norm"] = difference("acc_norm", *acc_norm)
    for name, what, unit in SHIFTS:
        values = [[row[name] for row in score.rows] for score in scores]
        if getattr(first, name) is not None:
            found[name] = shift(what, unit, *values)
    return found


def losses(first: Sequence[float], second: Sequence[float]) -> Shift:
    """Compare two models' losses in nats per token, window by window of the same text.

    The error treats the windows as independent; if a document spans several, it is a little too small.

    Raises:
        TaskError: the numbers of windows differ.
    """
    if len(first) != len(second) or not first:
        raise TaskError(
            f"{len(first)} windows of one model, {len(second)} of the other: score both on the same"
        )
    windows = "one window" if len(first) == 1 else f"the same {len(first):,} windows"
    return shift(f"over {windows}", "nats per token", first, second)


def shift(what: str, unit: str, first: Sequence[float], second: Sequence[float]) -> Shift:
    """Compare two means over the same things."""
    return Shift(what, unit, len(first), *mean([b - a for a, b in zip(first, second, strict=True)]))
