"""Scores of items, compared over variants: seeds crossed with items.

Source: Cornfield and Tukey (1956), Average values of mean squares in factorials.
Axes: S seeds, I items.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gptlab.errors import DataError
from gptlab.study.conclusions import Rules, check_values, conclude
from gptlab.study.differences import Estimate, Floats, complete, differences, satterthwaite
from gptlab.study.verdict import Verdict

Items = Mapping[str, Mapping[int, npt.NDArray[Any]]]  # variant -> seed -> score of each item


def compare_items(
    scores: Items,
    *,
    baseline: str,
    paired: bool,
    target: Literal["seeds", "seeds and items"],
) -> list[Verdict]:
    """Compare each variant's score with the baseline's; intervals and p-values hold for all comparisons together.

    For new seeds on these items, a run's score is one number, and its variance over seeds is pooled over the variants
    as for losses. For new items too, the difference of each item adds its variance over items, without the part that
    seeds explain: SE^2 = (MS_seed + MS_item - MS_residual) / (seeds x items). Where MS_item < MS_residual, the
    component of items is set to 0, so that the error is never below that for new seeds alone.

    Args:
        scores: for each seed of each variant, the scores of the same items in the same order; higher is better.
        baseline: the variant that the others are compared with.
        paired: whether runs of one seed are compared with each other; items always are.
        target: what the intervals hold for.

    Raises:
        ConfigError: there is no such baseline.
        DataError: a score is not finite, or runs differ in their number of items.
    """
    _alike(scores)
    means = {
        name: {seed: float(np.mean(each)) for seed, each in runs.items()} for name, runs in scores.items()
    }
    check_values(means, baseline)
    found = differences(means, baseline, paired=paired, variance="pooled")
    if target == "seeds and items":
        claimed = [name for name, difference in found.items() if difference.claims]
        seeds = complete(means, (baseline, *claimed)) if paired else None
        for name in claimed:
            runs_SI, control_SI = _table(scores[name], seeds), _table(scores[baseline], seeds)
            crossed = [runs_SI - control_SI] if paired else [runs_SI, control_SI]
            found[name] = with_items(found[name], crossed)
    rules = Rules(paired, "pooled", target == "seeds", False)
    return conclude(means, found, baseline, rules)


def with_items(over_seeds: Estimate, crossed: list[Floats]) -> Estimate:
    """Widen a difference by what other items would change.

    Args:
        over_seeds: the difference, with its error over seeds.
        crossed: one table [S, I] of paired differences, or one of each variant.
    """
    items = crossed[0].shape[1]
    if items < 2:
        return replace(over_seeds, error=0.0)
    shift_I = crossed[0].mean(0) - sum(table.mean(0) for table in crossed[1:])
    over_items = float(shift_I.var(ddof=1)) / items
    # The variance over items has the residuals in it, which the variance over seeds holds already.
    residuals = [residual(table) / table.size for table in crossed]
    floor = over_items - sum(residuals)
    if floor <= 0:
        return over_seeds
    parts = [over_seeds.error**2, over_items, *residuals]
    signed = [*parts[:2], *(-part for part in residuals)]
    dfs = [over_seeds.df, items - 1, *((len(table) - 1) * (items - 1) for table in crossed)]
    return replace(over_seeds, error=math.sqrt(sum(signed)), df=satterthwaite(signed, dfs), floor=floor)


def residual(scores_SI: Floats) -> float:
    """Return the mean square of what neither seeds nor items explain; two of each or more."""
    seeds, items = scores_SI.shape
    rest_SI = scores_SI - scores_SI.mean(0) - scores_SI.mean(1, keepdims=True) + scores_SI.mean()
    return float((rest_SI**2).sum()) / ((seeds - 1) * (items - 1))


def _table(runs: Mapping[int, npt.NDArray[Any]], seeds: list[int] | None) -> Floats:
    return np.array([runs[seed] for seed in (sorted(runs) if seeds is None else seeds)], np.float64)


def _alike(scores: Items) -> None:
    """Refuse runs that were not scored on the same items."""
    shapes = {(name, seed): np.shape(each) for name, runs in scores.items() for seed, each in runs.items()}
    first = next(iter(shapes.values()), (1,))
    for (name, seed), shape in shapes.items():
        if shape != first or len(shape) != 1 or not shape[0]:
            raise DataError(
                f"variant {name}, seed {seed}: has scores of shape {shape}, another run {first}; score all runs on the "
                "same items"
            )
