import math

import numpy as np
import pytest
from scipy import stats

from gptlab.study.simultaneous import dunnett_critical, dunnett_p, exceeds, sidak_critical, sidak_p

# Two-sided 5 %, equal sizes. Source: Dunnett (1964), New tables for multiple comparisons with a control, table 2.
PUBLISHED = {
    5: (2.57, 3.03, 3.29),
    6: (2.45, 2.86, 3.10),
    10: (2.23, 2.57, 2.76),
    20: (2.09, 2.38, 2.54),
    60: (2.00, 2.27, 2.41),
    math.inf: (1.96, 2.21, 2.35),
}


@pytest.mark.parametrize(("df", "published"), PUBLISHED.items())
def test_critical_values_are_the_published_ones(df: float, published: tuple[float, ...]):
    for comparisons, value in enumerate(published, 1):
        assert dunnett_critical((1.0,) * comparisons, df) == pytest.approx(value, abs=0.0051)


def test_critical_value_belongs_to_its_p():
    for sizes, df, alpha in (((1.0, 1.0), 3, 0.05), ((0.5, 2.0, 1.0), 12, 0.01), ((1.0,) * 3, 4_000, 0.05)):
        assert dunnett_p(dunnett_critical(sizes, df, alpha), sizes, df) == pytest.approx(alpha, rel=1e-6)


@pytest.mark.parametrize("df", [1, 2, 4, 8, 50, 1_000])
@pytest.mark.parametrize("t", [0.0, 0.3, 2.0, 5.0, 40.0])
def test_one_comparison_is_students_t(t: float, df: int):
    expected = 2 * stats.t.sf(t, df)
    assert dunnett_p(t, (1.0,), df) == pytest.approx(expected, rel=1e-6, abs=1e-15)
    assert sidak_p(t, 1, df) == pytest.approx(expected, rel=1e-9)


def test_p_is_scipys_multivariate_t():
    for k, df, t in ((3, 6, 2.2), (2, 4, 3.0)):
        shape = np.full((k, k), 0.5) + 0.5 * np.eye(k)
        corner = np.full(k, t)
        joint = stats.multivariate_t(shape=shape, df=df, seed=1)
        inside = joint.cdf(corner, lower_limit=-corner, random_state=1)
        assert dunnett_p(t, (1.0,) * k, df) == pytest.approx(1 - inside, abs=2e-4)


def test_sidak_is_a_bound():
    for t in (1.0, 2.5, 4.0):
        assert dunnett_p(t, (1.0,) * 3, 8) < sidak_p(t, 3, 8) < 3 * 2 * stats.t.sf(t, 8)
    assert sidak_p(sidak_critical(3, 4.5), 3, 4.5) == pytest.approx(0.05)


@pytest.mark.parametrize(("t", "shift", "df"), [(3, 2, 8), (2.5, 4, 6), (6, 5, 4), (2, 0.5, 100), (2, 0, 3)])
def test_power_is_the_noncentral_t(t: float, shift: float, df: float):
    assert exceeds(t, shift, df) == pytest.approx(
        stats.nct.sf(t, df, shift) + stats.nct.cdf(-t, df, shift), rel=1e-6
    )


def test_power_where_scipys_is_nan():
    assert exceeds(4.0, 300.0, 4) == pytest.approx(1.0)
