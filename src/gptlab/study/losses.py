"""One number of each run, compared over variants: the final loss, or a score on fixed items."""

import numpy as np
import scipy

from gptlab.study.conclusions import Rules, check_values, conclude
from gptlab.study.differences import Values, differences
from gptlab.study.power import Variance
from gptlab.study.verdict import Verdict

SUSPICIOUS = 0.01  # how rarely chance makes variances look as unequal


def compare_losses(
    values: Values,
    *,
    baseline: str,
    paired: bool,
    variance: Variance = "pooled",
    lower_is_better: bool = True,
) -> list[Verdict]:
    """Compare each variant with the baseline; intervals and p-values hold for all comparisons together.

    Pooled, all variants share the variance of the residuals around their means; where runs are paired, around means
    and seed effects (randomised blocks), over the seeds that all variants have. Unequal, each comparison has its own
    variances (Welch) or, paired, the t of its own differences. At few seeds that costs much of the power.

    Args:
        values: a number for each seed of each variant; a failed run is left out.
        baseline: the variant that the others are compared with.
        paired: whether runs of one seed are compared with each other.
        variance: whether all variants share one variance; chosen before the study.
        lower_is_better: as for a loss.

    Raises:
        ConfigError: there is no such baseline.
        DataError: a value is not finite.
    """
    check_values(values, baseline)
    found = differences(values, baseline, paired=paired, variance=variance)
    rules = Rules(paired, variance, variance == "pooled", lower_is_better)
    return conclude(values, found, baseline, rules)


def unequal_warning(values: Values) -> str | None:
    """Warn that variances over seeds look unequal; the warning changes no number."""
    groups = {name: np.array([*runs.values()]) for name, runs in values.items() if len(runs) > 1}
    if len(groups) < 2 or any(np.ptp(group) == 0 for group in groups.values()):
        return None
    p = float(scipy.stats.bartlett(*groups.values()).pvalue)
    if not p < SUSPICIOUS:
        return None
    spreads = {name: float(group.std(ddof=1)) for name, group in groups.items()}
    most, least = max(spreads, key=spreads.__getitem__), min(spreads, key=spreads.__getitem__)
    return (
        f"Variances over seeds look unequal: the standard deviation of {most} is {spreads[most] / spreads[least]:.1f} "
        f"times that of {least} (Bartlett's test, p = {p:.1g}), and chance makes them so unequal in fewer than 1 of "
        f'{round(1 / SUSPICIOUS)} studies. To allow for it, set variance = "unequal" before a new study starts.'
    )
