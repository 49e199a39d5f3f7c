import math

import numpy as np
import pytest

from gptlab.errors import ConfigError, DataError
from gptlab.study.differences import Estimate
from gptlab.study.items import compare_items, residual, with_items
from gptlab.study.losses import compare_losses
from gptlab.study.simultaneous import sidak_critical
from gptlab.study.verdict import Verdict

RNG = np.random.default_rng(0)
SEEDS, ITEMS = 3, 40
NAMES = ("base", "RoPE", "SwiGLU")
SCORES = {
    name: {
        seed: (RNG.normal(shift, 1, ITEMS) + np.linspace(-2, 2, ITEMS) > 0).astype(int)
        for seed in range(SEEDS)
    }
    for name, shift in zip(NAMES, (0.0, 0.5, 0.1), strict=True)
}


def slow_anova(table_SI: np.ndarray) -> tuple[float, float, float]:
    """Return the mean squares of seeds, items and the residual, number by number."""
    seeds, items = table_SI.shape
    grand = sum(table_SI[s, i] for s in range(seeds) for i in range(items)) / (seeds * items)
    of_seed = [sum(table_SI[s]) / items for s in range(seeds)]
    of_item = [sum(table_SI[:, i]) / seeds for i in range(items)]
    rest = sum(
        (table_SI[s, i] - of_seed[s] - of_item[i] + grand) ** 2 for s in range(seeds) for i in range(items)
    )
    return (
        items * sum((mean - grand) ** 2 for mean in of_seed) / (seeds - 1),
        seeds * sum((mean - grand) ** 2 for mean in of_item) / (items - 1),
        rest / ((seeds - 1) * (items - 1)),
    )


def table(name: str) -> np.ndarray:
    return np.array([*SCORES[name].values()], float)


def test_residual_is_the_slow_anovas():
    for name in NAMES:
        assert residual(table(name)) == pytest.approx(slow_anova(table(name))[2])


def test_paired_new_items_and_two_variants_is_the_published_formula():
    """SE^2 = (MS_seed + MS_item - MS_residual) / (seeds x items), of the differences."""
    two = {name: SCORES[name] for name in ("base", "RoPE")}
    seed, item, rest = slow_anova(table("RoPE") - table("base"))
    assert item > rest
    squared = (seed + item - rest) / (SEEDS * ITEMS)
    df = (seed + item - rest) ** 2 / (
        seed**2 / (SEEDS - 1) + item**2 / (ITEMS - 1) + rest**2 / ((SEEDS - 1) * (ITEMS - 1))
    )
    found = compare_items(two, baseline="base", paired=True, target="seeds and items")[1]
    half = sidak_critical(1, df) * math.sqrt(squared)
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))
    assert found.difference == pytest.approx(float((table("RoPE") - table("base")).mean()))


def test_unpaired_new_items_adds_the_variances_over_seeds():
    two = {name: SCORES[name] for name in ("base", "RoPE")}
    ours, theirs = slow_anova(table("RoPE")), slow_anova(table("base"))
    seeds = (ours[0] + theirs[0]) / (SEEDS * ITEMS)
    items = float((table("RoPE").mean(0) - table("base").mean(0)).var(ddof=1)) / ITEMS
    rests = [each[2] / (SEEDS * ITEMS) for each in (ours, theirs)]
    squared = seeds + items - sum(rests)
    df = squared**2 / (
        seeds**2 / (2 * (SEEDS - 1))
        + items**2 / (ITEMS - 1)
        + sum(r**2 for r in rests) / ((SEEDS - 1) * (ITEMS - 1))
    )
    found = compare_items(two, baseline="base", paired=False, target="seeds and items")[1]
    half = sidak_critical(1, df) * math.sqrt(squared)
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))


@pytest.mark.parametrize("paired", [False, True])
def test_new_seeds_alone_compare_the_runs_scores(paired: bool):
    means = {name: {seed: float(x.mean()) for seed, x in runs.items()} for name, runs in SCORES.items()}
    expected = compare_losses(means, baseline="base", paired=paired, lower_is_better=False)
    assert compare_items(SCORES, baseline="base", paired=paired, target="seeds") == expected


@pytest.mark.parametrize("paired", [False, True])
def test_new_items_never_narrow_an_interval(paired: bool):
    for scale in (1.0, 0.0):
        # Runs that answer by chance alone: the component of items is often negative, and clipped.
        rng = np.random.default_rng(1)
        noise = {
            name: {seed: rng.normal(size=ITEMS) + scale * np.arange(ITEMS) * k for seed in range(SEEDS)}
            for k, name in enumerate(NAMES)
        }
        for narrow, wide in zip(
            *(
                compare_items(noise, baseline="base", paired=paired, target=target)
                for target in ("seeds", "seeds and items")
            ),
            strict=True,
        ):
            if narrow.interval is not None:
                assert wide.interval[0] <= narrow.interval[0] < narrow.interval[1] <= wide.interval[1]


def test_a_negative_component_is_clipped():
    over_seeds = Estimate(0.1, 0.02, 4, 0.02)
    opposite_SI = np.array([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])  # item means 0, all residual
    assert with_items(over_seeds, [opposite_SI]) == over_seeds


def test_paired_uses_the_seeds_that_all_variants_have():
    holes = {name: dict(runs) for name, runs in SCORES.items()}
    holes["SwiGLU"] = {s: x for s, x in holes["SwiGLU"].items() if s != 1}
    kept = {name: {s: x for s, x in runs.items() if s != 1} for name, runs in SCORES.items()}
    for target in ("seeds", "seeds and items"):
        found, expected = (
            compare_items(each, baseline="base", paired=True, target=target) for each in (holes, kept)
        )
        assert [each.interval for each in found] == [each.interval for each in expected]


def test_seeds_cannot_replace_items():
    """A difference below what the items leave open is beyond any number of seeds, though not on these items."""
    rng = np.random.default_rng(4)
    item_I = rng.normal(0, 1, ITEMS)
    scores = {
        name: {seed: shift * (item_I + 0.5) + rng.normal(0, 0.5, ITEMS) for seed in range(SEEDS)}
        for name, shift in (("base", 0.0), ("RoPE", 0.2))
    }
    wide = compare_items(scores, baseline="base", paired=True, target="seeds and items")[1]
    narrow = compare_items(scores, baseline="base", paired=True, target="seeds")[1]
    assert wide.verdict == "not distinguishable"
    assert wide.seeds_needed is None or wide.seeds_needed > narrow.seeds_needed


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("target", ["seeds", "seeds and items"])
@pytest.mark.parametrize(
    "scores",
    [
        {"base": {0: np.ones(4)}, "RoPE": {0: np.zeros(4)}},
        {"base": {0: np.ones(4), 1: np.ones(4)}, "RoPE": {0: np.zeros(4), 1: np.zeros(4)}},
        {"base": {0: np.arange(4), 1: np.ones(4)}},
        {"base": {}, "RoPE": {0: np.ones(4), 1: np.zeros(4)}},
    ],
    ids=["one seed", "no spread", "one variant", "no baseline's run"],
)
def test_no_claim(scores: dict[str, dict[int, np.ndarray]], target: str, paired: bool):
    for each in compare_items(scores, baseline="base", paired=paired, target=target):
        assert (each.verdict, each.interval, each.p, each.seeds_needed) == (None, None, None, None)


def test_one_item_says_nothing_of_new_items():
    one = {
        name: {seed: np.array([float(seed + k)]) for seed in range(3)}
        for k, name in enumerate(("base", "RoPE"))
    }
    assert compare_items(one, baseline="base", paired=False, target="seeds and items")[1].verdict is None
    assert compare_items(one, baseline="base", paired=False, target="seeds")[1].verdict is not None


def test_a_variant_without_runs():
    found = compare_items({**SCORES, "none": {}}, baseline="base", paired=True, target="seeds and items")
    assert found[:3] == compare_items(SCORES, baseline="base", paired=True, target="seeds and items")
    assert found[3] == Verdict(name="none", n=0, mean=None, sd=None)


def test_named_errors():
    with pytest.raises(ConfigError, match="baseline 'GPT': is not a variant"):
        compare_items(SCORES, baseline="GPT", paired=True, target="seeds")
    other = {**SCORES, "RoPE": {0: np.ones(ITEMS), 1: np.ones(ITEMS - 1)}}
    with pytest.raises(
        DataError, match=r"variant RoPE, seed 1: has scores of shape \(39,\), another run \(40,\)"
    ):
        compare_items(other, baseline="base", paired=True, target="seeds")
    other = {**SCORES, "RoPE": {0: np.full(ITEMS, math.nan)}}
    with pytest.raises(DataError, match="variant RoPE, seed 0: is nan"):
        compare_items(other, baseline="base", paired=True, target="seeds")
