import math
import random

import pytest

from gptlab.eval.chance import CHANCE, doubt, tail


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (3, 9), (266, 1000), (289, 1000), (2600, 10042)])
@pytest.mark.parametrize("chance", [0.25, 0.5])
def test_the_tail_is_that_of_the_binomial_distribution(right, n, chance):
    stats = pytest.importorskip("scipy.stats")
    assert tail(right, n, chance) == pytest.approx(stats.binom.sf(right - 1, n, chance), rel=1e-8)


def test_of_many_items_the_tail_is_nearly_the_same():
    for right in (49_900, 50_000, 50_400):
        exact = math.fsum(
            math.exp(math.lgamma(200_001) - math.lgamma(k + 1) - math.lgamma(200_001 - k) + math.log(0.25) * k
                     + math.log(0.75) * (200_000 - k))
            for k in range(right, 60_000)
        )  # fmt: skip
        assert tail(right, 200_000, 0.25) == pytest.approx(exact, rel=0.01)


def test_guessing_is_called_above_chance_once_in_twenty_times_at_most():
    dice = random.Random(0)
    for n in (10, 400):
        shares = [sum(dice.random() < 0.25 for _ in range(n)) / n for _ in range(1000)]
        assert sum(doubt("hellaswag", share, n) is None for share in shares) < 70


@pytest.mark.parametrize(
    ("task", "share", "n", "told"),
    [
        ("hellaswag", 0.26, 1000, "not shown to be above chance (25 %)"),
        ("hellaswag", 0.29, 1000, None),
        ("continuation", 1.0, 1, "not shown to be above chance (25 %)"),
        ("hellaswag", 0.1, 10042, "not shown to be above chance (25 %)"),
        ("piqa", 0.51, 1838, "not shown to be above chance (50 %)"),
        ("piqa", 0.62, 1838, None),
        ("lambada_openai", 0.0, 9, None),  # what guessing gives is not known
        ("hellaswag", -3.0, 9, "not shown to be above chance (25 %)"),  # a damaged row
        ("hellaswag", 7.0, 10**15, None),
    ],
)
def test_what_is_said(task, share, n, told):
    assert doubt(task, share, n) == told


def test_chance_is_that_of_the_choices():
    assert CHANCE["hellaswag"] == CHANCE["continuation"] == 0.25
