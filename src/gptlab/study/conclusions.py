"""From differences to verdicts: intervals and p-values that hold for all comparisons together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from gptlab.errors import ConfigError, DataError
from gptlab.study.differences import Estimate, Values
from gptlab.study.power import Variance, seeds_needed
from gptlab.study.simultaneous import dunnett_critical, dunnett_p, sidak_critical, sidak_p
from gptlab.study.verdict import ALPHA, Verdict, mean_sd, verdict_of


@dataclass(frozen=True)
class Rules:
    """How the differences of a study are judged."""

    paired: bool
    """Whether runs of one seed are compared with each other."""
    variance: Variance
    """Whether all variants share one variance over seeds."""
    joint: bool
    """Whether all comparisons share one estimate of the error: Dunnett's test is exact; otherwise Sidak's bound."""
    lower_is_better: bool


def conclude(values: Values, found: Mapping[str, Estimate], baseline: str, rules: Rules) -> list[Verdict]:
    """Return a verdict for each variant, in their order."""
    family = {name: difference for name, difference in found.items() if difference.claims}
    sizes = tuple(1.0 if rules.paired else len(values[name]) / len(values[baseline]) for name in family)
    verdicts: list[Verdict] = []
    for name, runs in values.items():
        mean, sd = mean_sd([*runs.values()])
        plain = Verdict(name=name, n=len(runs), mean=mean, sd=sd)
        if name in family:
            plain = _judged(plain, family[name], sizes, rules)
        elif name in found:
            plain = replace(plain, difference=found[name].value)
        verdicts.append(plain)
    return verdicts


def _judged(plain: Verdict, found: Estimate, sizes: tuple[float, ...], rules: Rules) -> Verdict:
    t, df, count = abs(found.value) / found.error, found.df, len(sizes)
    if rules.joint:
        p, bound = dunnett_p(t, sizes, df), dunnett_critical(sizes, df, ALPHA)
    else:
        p, bound = sidak_p(t, count, df), sidak_critical(count, df, ALPHA)
    return replace(
        plain,
        difference=found.value,
        interval=(found.value - bound * found.error, found.value + bound * found.error),
        p=p,
        verdict=verdict_of(found.value, p, lower_is_better=rules.lower_is_better),
        seeds_needed=seeds_needed(
            found.value,
            found.sd,
            count,
            paired=rules.paired,
            variance=rules.variance,
            floor=found.floor,
        ),
    )


def check_values(values: Mapping[str, Mapping[int, float]], baseline: str) -> None:
    """Refuse a comparison that cannot be made.

    Raises:
        ConfigError: there is no such baseline.
        DataError: a value is not finite.
    """
    if baseline not in values:
        raise ConfigError(f"baseline {baseline!r}: is not a variant; choose one of {', '.join(values)}")
    for name, runs in values.items():
        for seed, value in runs.items():
            if not math.isfinite(value):
                raise DataError(f"variant {name}, seed {seed}: is {value}; leave out runs that diverged")
