import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from gptlab.errors import ConfigError, DataError
from gptlab.study.losses import compare_losses, unequal_warning
from gptlab.study.verdict import Verdict

RNG = np.random.default_rng(0)
SIZES = {"base": 4, "RoPE": 3, "SwiGLU": 5}
UNEQUAL_N = {
    name: {seed: float(RNG.normal(shift, 0.01)) for seed in range(n)}
    for (name, n), shift in zip(SIZES.items(), (3.30, 3.27, 3.31), strict=True)
}
FULL = {name: {seed: float(RNG.normal(3.3, 0.01) + 0.02 * seed) for seed in range(4)} for name in "ABCD"}


def values(*runs: list[float]) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(each)) for name, each in zip("ABCD", runs, strict=False)}


def arrays(table: dict[str, dict[int, float]]) -> list[np.ndarray]:
    return [np.array([*runs.values()]) for runs in table.values()]


def anova(table_VS: np.ndarray) -> tuple[float, int]:
    """Return the residual mean square of a two-way layout and its degrees of freedom, by least squares on dummies."""
    n_variants, n_seeds = table_VS.shape
    rows = [
        [1.0, *(float(v == i) for i in range(1, n_variants)), *(float(s == i) for i in range(1, n_seeds))]
        for v in range(n_variants)
        for s in range(n_seeds)
    ]
    fitted, *_ = np.linalg.lstsq(np.array(rows), table_VS.ravel())
    rest = table_VS.ravel() - np.array(rows) @ fitted
    df = len(rows) - len(rows[0])
    return float(rest @ rest) / df, df


def test_unpaired_and_pooled_is_scipys_dunnett():
    base, *others = arrays(UNEQUAL_N)
    expected = stats.dunnett(*others, control=base, random_state=1)
    bounds = expected.confidence_interval(0.95)
    found = compare_losses(UNEQUAL_N, baseline="base", paired=False, variance="pooled")[1:]
    for i, each in enumerate(found):
        assert each.p == pytest.approx(expected.pvalue[i], abs=2e-3)
        assert each.interval == pytest.approx((bounds.low[i], bounds.high[i]), abs=2e-4)


def test_paired_and_pooled_is_a_two_way_anova():
    table_VS = np.array(arrays(FULL))
    square, df = anova(table_VS)
    assert df == 3 * 3
    found = compare_losses(FULL, baseline="A", paired=True, variance="pooled")
    error = math.sqrt(square * 2 / 4)
    shape = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    for i, each in enumerate(found[1:], 1):
        assert each.difference == pytest.approx(table_VS[i].mean() - table_VS[0].mean())
        t = abs(each.difference) / error
        inside = stats.multivariate_t(shape=shape, df=df).cdf([t] * 3, lower_limit=[-t] * 3, random_state=1)
        assert each.p == pytest.approx(1 - inside, abs=5e-4)
        # Dunnett (1955) for 3 comparisons and 9 degrees of freedom: 2.81
        assert (each.interval[1] - each.interval[0]) / 2 == pytest.approx(2.81 * error, rel=2e-3)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("variance", ["pooled", "unequal"])
def test_two_variants_are_a_t_test(paired: bool, variance: str):
    two = {name: FULL[name] for name in "AB"}
    a, b = arrays(two)
    test = stats.ttest_rel(b, a) if paired else stats.ttest_ind(b, a, equal_var=variance == "pooled")
    found = compare_losses(two, baseline="A", paired=paired, variance=variance)[1]
    assert found.p == pytest.approx(test.pvalue, rel=1e-6)
    assert found.interval == pytest.approx(test.confidence_interval(0.95), rel=1e-6)


@pytest.mark.parametrize("paired", [False, True])
def test_unequal_variances_are_t_tests_at_sidaks_level(paired: bool):
    base, *others = arrays(FULL)
    found = compare_losses(FULL, baseline="A", paired=paired, variance="unequal")[1:]
    for each, runs in zip(found, others, strict=True):
        test = stats.ttest_rel(runs, base) if paired else stats.ttest_ind(runs, base, equal_var=False)
        assert each.p == pytest.approx(1 - (1 - test.pvalue) ** 3, rel=1e-6)
        assert each.interval == pytest.approx(test.confidence_interval(0.95 ** (1 / 3)), rel=1e-6)


def test_by_hand():
    """Differences -1, -2, -3: a mean of -2, an error of 1 / sqrt(3), and t(0.975, 2) = 4.3027."""
    found = compare_losses(values([5, 6, 7], [4, 4, 4]), baseline="A", paired=True)[1]
    assert (found.mean, found.sd, found.difference) == (4, 0, -2)
    assert found.interval == pytest.approx((-2 - 4.3027 / math.sqrt(3), -2 + 4.3027 / math.sqrt(3)), abs=1e-3)
    assert found.verdict == "not distinguishable"


def test_the_interval_and_the_verdict_agree():
    rng = np.random.default_rng(5)
    for _ in range(20):
        runs = values(*(rng.normal(shift, 1, 3).tolist() for shift in (0, 2, -4, 8)))
        for paired in (False, True):
            for variance in ("pooled", "unequal"):
                for each in compare_losses(runs, baseline="A", paired=paired, variance=variance)[1:]:
                    low, high = each.interval
                    assert (each.verdict == "not distinguishable") == (low <= 0 <= high)
                    assert (each.verdict == "better") == (high < 0)


def test_higher_may_be_better():
    runs = values([1.0, 1.1, 1.2], [5.0, 5.1, 5.2], [0.9, 1.3, 1.2])
    for lower, verdict in ((True, "worse"), (False, "better")):
        found = compare_losses(runs, baseline="A", paired=False, lower_is_better=lower)
        assert [each.verdict for each in found] == [None, verdict, "not distinguishable"]


def test_missing_seeds_of_pairs_leave_the_complete_ones():
    holes = {name: dict(runs) for name, runs in FULL.items()}
    del holes["C"][1]
    kept = {name: {s: x for s, x in runs.items() if s != 1} for name, runs in FULL.items()}
    for found, expected in zip(
        *(compare_losses(v, baseline="A", paired=True) for v in (holes, kept)), strict=True
    ):
        assert (found.difference, found.interval, found.p) == (
            expected.difference,
            expected.interval,
            expected.p,
        )
    assert [each.n for each in compare_losses(holes, baseline="A", paired=True)] == [4, 4, 3, 4]


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("variance", ["pooled", "unequal"])
def test_a_variant_of_too_few_runs_claims_nothing_and_hurts_nobody(paired: bool, variance: str):
    few = {"A": FULL["A"], "B": FULL["B"], "one": {0: 3.0}, "none": {}}
    found = compare_losses(few, baseline="A", paired=paired, variance=variance)
    alone = compare_losses({n: FULL[n] for n in "AB"}, baseline="A", paired=paired, variance=variance)
    assert found[:2] == alone
    assert (found[2].n, found[2].verdict, found[2].interval, found[2].p) == (1, None, None, None)
    assert found[2].difference is not None
    assert found[3] == Verdict(name="none", n=0, mean=None, sd=None)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("variance", ["pooled", "unequal"])
@pytest.mark.parametrize(
    "runs",
    [
        {"A": {0: 3.0}, "B": {0: 2.0}},
        {"A": {}, "B": {0: 2.0, 1: 2.1}},
        {"A": {0: 2.0, 1: 2.1}},
        {"A": {0: 3.1, 1: 3.1, 2: 3.1}, "B": {0: 2.7, 1: 2.7, 2: 2.7}},
        {"A": {0: 3.1, 1: 3.1, 2: 3.1}, "B": {0: 3.1, 1: 3.1, 2: 3.1}},
    ],
    ids=["one seed", "no baseline's run", "one variant", "no spread", "all the same"],
)
def test_no_claim(runs: dict[str, dict[int, float]], paired: bool, variance: str):
    for each in compare_losses(runs, baseline="A", paired=paired, variance=variance):
        assert (each.verdict, each.interval, each.p, each.seeds_needed) == (None, None, None, None)
        assert "NaN" not in json.dumps(asdict(each))


def test_pairs_without_a_seed_in_common():
    apart = {"A": {0: 3.0, 1: 3.1}, "B": {2: 3.2, 3: 3.1}}
    assert compare_losses(apart, baseline="A", paired=True)[1].difference is None
    assert compare_losses(apart, baseline="A", paired=False)[1].p is not None


def test_a_constant_shift_between_pairs_has_no_spread():
    """Floating point makes of it a spread of 1e-16, which would claim anything."""
    runs = {"A": {s: 3.1 + 0.1 * s for s in range(3)}, "B": {s: 3.0 + 0.1 * s for s in range(3)}}
    for variance in ("pooled", "unequal"):
        assert compare_losses(runs, baseline="A", paired=True, variance=variance)[1].verdict is None


def test_named_errors():
    with pytest.raises(ConfigError, match="baseline 'GPT': is not a variant; choose one of A, B, C, D"):
        compare_losses(FULL, baseline="GPT", paired=True)
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match=f"variant B, seed 1: is {bad}; leave out runs that diverged"):
            compare_losses({"A": FULL["A"], "B": {0: 3.0, 1: bad}}, baseline="A", paired=True)


def test_warning():
    assert unequal_warning(FULL) is None
    assert unequal_warning(values([1.0, 1.0], [1.0, 2.0])) is None
    assert unequal_warning(values([1.0])) is None
    said = unequal_warning(values([3.0, 3.0001, 3.0002, 3.0001], [3.0, 3.5, 4.0, 3.5]))
    assert said is not None
    assert "the standard deviation of B is 5000.0 times that of A" in said
