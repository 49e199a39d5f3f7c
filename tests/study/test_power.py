import math

import pytest
from scipy import stats

from gptlab.study.power import HELLASWAG_SD, LOSS_SD, detectable, power_of, seeds_needed
from gptlab.study.simultaneous import dunnett_critical


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("variance", ["pooled", "unequal"])
def test_the_detectable_difference_has_its_power(paired: bool, variance: str):
    size = detectable(0.0013, 3, 3, paired=paired, variance=variance)
    assert power_of(size, 0.0013, 3, 3, paired=paired, variance=variance) == pytest.approx(0.8, abs=1e-6)


def test_power_by_hand():
    """3 seeds, 4 variants, unpaired: 8 degrees of freedom, and a standard error of sd * sqrt(2 / 3)."""
    t, shift = dunnett_critical((1.0,) * 3, 8), 4.0 / math.sqrt(2 / 3)
    expected = stats.nct.sf(t, 8, shift) + stats.nct.cdf(-t, 8, shift)
    assert power_of(4.0, 1.0, 3, 3, paired=False) == pytest.approx(expected, rel=1e-8)
    assert power_of(-4.0, 1.0, 3, 3, paired=False) == pytest.approx(expected, rel=1e-8)


def test_two_variants_are_the_t_test():
    """17 a group find a shift of one standard deviation at 80 %: the textbook's number."""
    assert seeds_needed(1.0, 1.0, 1, paired=False) == 17
    assert seeds_needed(math.sqrt(2), 1.0, 1, paired=True) == 10  # one sample, a shift of one: 10


@pytest.mark.parametrize("options", [{}, {"variance": "unequal"}, {"floor": 2e-8}])
@pytest.mark.parametrize("difference", [0.02, 0.004, 0.001, 0.0006])
def test_seeds_needed_is_the_fewest(difference: float, options: dict[str, object]):
    def power(n: int) -> float:
        return power_of(difference, 0.002, n, 3, paired=True, **options)

    n = seeds_needed(difference, 0.002, 3, paired=True, **options)
    assert n is not None
    assert power(n) >= 0.8
    assert n == 2 or power(n - 1) < 0.8


def test_no_number_of_seeds_is_enough():
    assert seeds_needed(1e-5, 0.002, 3, paired=True) is None
    assert seeds_needed(0.0, 0.002, 3, paired=True) is None
    assert seeds_needed(0.1, 0.0, 3, paired=True) is None
    # Other items alone vary the difference too much; the first is just beyond what Sidak's bound allows.
    for floor in (1.54e-6, 1e-5):
        assert seeds_needed(0.004, 0.002, 3, paired=True, floor=floor) is None


def test_just_above_ten_thousand():
    size = detectable(1.0, 10_000, 3, paired=False)
    assert seeds_needed(1.0001 * size, 1.0, 3, paired=False) in range(9_990, 10_001)
    assert seeds_needed(0.999 * size, 1.0, 3, paired=False) is None


def test_three_seeds_show_a_few_times_the_published_noise():
    low, high = (detectable(sd, 3, 3, paired=True) for sd in LOSS_SD["124M"])
    assert 0.004 < low < high < 0.007
    assert LOSS_SD["350M"] < LOSS_SD["124M"]
    assert HELLASWAG_SD == (0.002, 0.0045)
