"""Several variants against one baseline: p-values and critical values that hold for all comparisons together."""

import math
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

Floats = npt.NDArray[np.float64]

FARTHEST = 9.0  # standard deviations of the baseline's error that the integral covers
MANY = 300.0  # degrees of freedom above which critical values are interpolated
LEAST = 1e-17  # probability on either side of the spread that it leaves out


def dunnett_p(t: float, sizes: tuple[float, ...], df: float) -> float:
    """Return how often the largest |t| of the comparisons exceeds a value when no variant differs.

    The comparisons share the baseline's error and one estimate of the spread; given both they are independent. The
    integral over the two is exact to seven digits; `scipy.stats.dunnett` samples, and takes no degrees of freedom.

    Args:
        t: the value, not negative.
        sizes: for each comparison, the variant's runs divided by the baseline's.
        df: degrees of freedom of the spread; infinite if the spread is known.

    Source: Dunnett (1955), A multiple comparison procedure for comparing several treatments with a control.
    """
    errors = np.linspace(-FARTHEST, FARTHEST, 91)
    spreads, weights = _spreads(df)
    inside = np.zeros((len(spreads), len(errors)))  # log probability that every comparison stays below t
    for size, count in Counter(sizes).items():
        middle, bound = math.sqrt(size) * errors, math.sqrt(1 + size) * t * spreads[:, None]
        outside = scipy.special.ndtr(-middle - bound) + scipy.special.ndtr(middle - bound)
        inside += count * np.log1p(-np.minimum(outside, 1 - 1e-16))
    density = np.exp(-(errors**2) / 2)
    return min(1.0, float(weights @ (-np.expm1(inside)) @ density / density.sum()))


@lru_cache(1024)
def _spreads(df: float) -> tuple[Floats, Floats]:
    """Return estimates of a spread of 1 and how probable each is; evenly spaced in the logarithm."""
    if math.isinf(df):
        return np.ones(1), np.ones(1)
    low, high = (
        math.log(edge / df) / 2 for edge in (scipy.stats.chi2.ppf(LEAST, df), scipy.stats.chi2.isf(LEAST, df))
    )
    logs = np.linspace(low, high, max(64, math.ceil((high - low) / 0.1)))
    log_density = df * logs - df * np.exp(2 * logs) / 2
    density = np.exp(log_density - log_density.max())
    return np.exp(logs), density / density.sum()


@lru_cache(4096)
def dunnett_critical(sizes: tuple[float, ...], df: float, alpha: float = 0.05) -> float:
    """Return the |t| that the largest of the comparisons exceeds by chance with probability alpha."""
    if MANY < df < math.inf:  # a parabola in 1/df is exact to seven digits here, and spares the integral
        nodes = (MANY / 2, MANY, math.inf)
        exact = [dunnett_critical(sizes, node, alpha) for node in nodes]
        return float(np.polyval(np.polyfit([1 / node for node in nodes], exact, 2), 1 / df))
    low, high = sidak_critical(1, df, alpha), sidak_critical(len(sizes), df, alpha)
    return root(lambda t: alpha - dunnett_p(t, sizes, df), 0.99 * low, 1.01 * high)


def sidak_p(t: float, comparisons: int, df: float) -> float:
    """Return a bound on the same, from one comparison alone, whatever the comparisons share.

    Source: Sidak (1967), Rectangular confidence regions for the means of multivariate normal distributions.
    """
    alone = 2 * float(scipy.stats.t.sf(t, df))
    return 1.0 if alone >= 1 else -math.expm1(comparisons * math.log1p(-alone))


def sidak_critical(comparisons: int, df: float, alpha: float = 0.05) -> float:
    """Return the |t| that belongs to `sidak_p`."""
    return float(scipy.stats.t.isf(-math.expm1(math.log1p(-alpha) / comparisons) / 2, df))


def exceeds(t: float, shift: float, df: float) -> float:
    """Return how often |t| of one comparison exceeds a value when its mean is shifted by `shift` standard errors.

    It is the noncentral t distribution; `scipy.stats.nct` returns NaN at few degrees of freedom and a large shift.
    """
    spreads, weights = _spreads(df)
    return float(
        weights @ (scipy.special.ndtr(shift - t * spreads) + scipy.special.ndtr(-shift - t * spreads))
    )


def root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function crosses zero between two numbers, or above them."""
    while rising(high) < 0:
        high *= 4
    found: Any = scipy.optimize.brentq(rising, low, high, xtol=1e-9 * high)
    return float(found)
