"""How far each variant's mean is from the baseline's, and how precise that is.

Axes: V variants with the baseline first, S seeds.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Runs = Mapping[int, float]  # seed -> number
Values = Mapping[str, Runs]  # variant -> seed -> number

ROUNDING = 1e-12  # relative spread that rounding alone gives equal numbers


@dataclass(frozen=True)
class Estimate:
    """A difference of means, and its precision."""

    value: float
    error: float = 0.0
    """Standard error; 0 if nothing can be claimed."""
    df: float = 0.0
    """Degrees of freedom of the error."""
    sd: float = 0.0
    """Standard deviation of runs over seeds, without what paired runs share."""
    floor: float = 0.0
    """The part of the squared error that more seeds do not reduce."""

    @property
    def claims(self) -> bool:
        """Whether it says anything about new runs: two seeds or more, and some spread."""
        return self.df > 0 and self.error > 0


def differences(values: Values, baseline: str, *, paired: bool, variance: str) -> dict[str, Estimate]:
    """Return the difference of each variant from the baseline; none for a variant without runs to compare.

    A variant with a single run gets a difference that claims nothing, and takes no part in the pooled variance.
    """
    control = values[baseline]
    shared = {
        name: runs.keys() & control.keys() if paired else runs.keys()
        for name, runs in values.items()
        if name != baseline
    }
    found = {
        name: Estimate(_mean(values[name], seeds) - _mean(control, seeds if paired else control.keys()))
        for name, seeds in shared.items()
        if seeds and control
    }
    others = [name for name in found if len(shared[name]) > 1]
    if others and len(control) > 1:
        found |= ESTIMATORS[paired, variance](values, baseline, others)
    return found


def complete(values: Mapping[str, Mapping[int, object]], names: Sequence[str]) -> list[int]:
    """Return the seeds that all these variants have."""
    return sorted(set.intersection(*(set(values[name]) for name in names)))


def _pooled(values: Values, baseline: str, others: Sequence[str]) -> dict[str, Estimate]:
    """Pool the variance of runs around their variant's mean."""
    groups = {name: _array(values[name]) for name in (baseline, *others)}
    residuals = np.concatenate([group - group.mean() for group in groups.values()])
    df = len(residuals) - len(groups)
    sd, control = _sd(residuals, df, groups.values()), groups[baseline]
    return {
        name: Estimate(
            float(groups[name].mean() - control.mean()),
            sd * math.sqrt(1 / len(groups[name]) + 1 / len(control)),
            df,
            sd,
        )
        for name in others
    }


def _blocks(values: Values, baseline: str, others: Sequence[str]) -> dict[str, Estimate]:
    """Pool the variance that variants and seeds leave: randomised blocks, over the seeds that all variants have."""
    seeds = complete(values, (baseline, *others))
    if len(seeds) < 2:
        return {}
    table_VS = np.array([[values[name][seed] for seed in seeds] for name in (baseline, *others)])
    residuals_VS = table_VS - table_VS.mean(0) - table_VS.mean(1, keepdims=True) + table_VS.mean()
    df = len(others) * (len(seeds) - 1)
    sd, means_V = _sd(residuals_VS, df, [table_VS]), table_VS.mean(1)
    return {
        name: Estimate(float(mean - means_V[0]), sd * math.sqrt(2 / len(seeds)), df, sd)
        for name, mean in zip(others, means_V[1:], strict=True)
    }


def _welch(values: Values, baseline: str, others: Sequence[str]) -> dict[str, Estimate]:
    """Give each comparison the two variances of its own runs."""
    found: dict[str, Estimate] = {}
    for name in others:
        groups = [_array(values[name]), _array(values[baseline])]
        variances = [_sd(each - each.mean(), len(each) - 1, groups) ** 2 for each in groups]
        parts = [variance / len(each) for variance, each in zip(variances, groups, strict=True)]
        found[name] = Estimate(
            float(groups[0].mean() - groups[1].mean()),
            math.sqrt(sum(parts)),
            satterthwaite(parts, [len(each) - 1 for each in groups]),
            math.sqrt(sum(variances) / 2),
        )
    return found


def _paired(values: Values, baseline: str, others: Sequence[str]) -> dict[str, Estimate]:
    """Give each comparison the variance of its own differences."""
    found: dict[str, Estimate] = {}
    for name in others:
        seeds = complete(values, (baseline, name))
        runs = np.array([[values[each][seed] for seed in seeds] for each in (name, baseline)])
        shifts = runs[0] - runs[1]
        sd, n = _sd(shifts - shifts.mean(), len(seeds) - 1, [runs]), len(seeds)
        found[name] = Estimate(float(shifts.mean()), sd / math.sqrt(n), n - 1, sd / math.sqrt(2))
    return found


def satterthwaite(parts: Sequence[float], dfs: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of variances, some of which may be subtracted.

    Source: Satterthwaite (1946), An approximate distribution of estimates of variance components.
    """
    if not any(parts):
        return 0.0
    return sum(parts) ** 2 / sum(part**2 / df for part, df in zip(parts, dfs, strict=True))


def _sd(residuals: Floats, df: float, values: Iterable[Floats]) -> float:
    sd = math.sqrt(float((residuals**2).sum()) / df)
    largest = max(float(np.abs(each).max()) for each in values)
    return sd if sd > ROUNDING * largest else 0.0


def _array(runs: Runs) -> Floats:
    return np.array([runs[seed] for seed in sorted(runs)], np.float64)


def _mean(runs: Runs, seeds: Collection[int]) -> float:
    return math.fsum(runs[seed] for seed in seeds) / len(seeds)


Estimator = Callable[[Values, str, Sequence[str]], dict[str, Estimate]]
ESTIMATORS: dict[tuple[bool, str], Estimator] = {
    (False, "pooled"): _pooled,
    (True, "pooled"): _blocks,
    (False, "unequal"): _welch,
    (True, "unequal"): _paired,
}
