import math
import random

import numpy as np
import pytest

from gptlab.errors import TaskError
from gptlab.eval.accuracy import Accuracy, summarise
from gptlab.eval.compare import Difference, Shift, compare, difference, mcnemar


def outcomes(right: list[bool], margins: list[float] | None = None) -> Accuracy:
    return summarise(
        [
            {
                "i": i,
                "label": 1,
                "log_likelihoods": [-1.0, -2.0],
                "pred": int(hit),
                "pred_norm": int(hit),
                "margin": margins[i] if margins else 0.0,
            }
            for i, hit in enumerate(right)
        ],
        truncated=0,
    )


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (17, 17), (80, 41), (2000, 2101)])
def test_mcnemar_is_the_exact_binomial_test(gained, lost):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_the_paired_error_is_what_resampling_the_items_gives():
    chance = random.Random(0)
    first = [chance.random() < 0.4 for _ in range(500)]
    second = [hit if chance.random() < 0.8 else not hit for hit in first]
    found = difference("acc", first, second)
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert (found.gained, found.lost) == (
        sum(b and not a for a, b in zip(first, second, strict=True)),
        sum(a and not b for a, b in zip(first, second, strict=True)),
    )
    steps = np.array(second, int) - np.array(first, int)
    generator = np.random.default_rng(1)
    resampled = [generator.choice(steps, len(steps)).mean() for _ in range(4000)]
    assert found.stderr == pytest.approx(np.std(resampled), rel=0.05)
    # Two scores with their own errors would see less.
    assert found.stderr < math.hypot(outcomes(first).stderr, outcomes(second).stderr)


def test_two_models_are_compared_by_both_rules_and_the_margin():
    first = outcomes([True, False, False, True], [0.1, -0.2, 0.0, 0.3])
    second = outcomes([True, True, True, False], [0.3, 0.2, 0.1, 0.4])
    found = compare(first, second)
    assert list(found) == ["acc", "acc_norm", "margin"]
    assert found["acc"].facts() == {
        "gained": 2,
        "lost": 1,
        "n": 4,
        "difference": 0.25,
        "stderr": pytest.approx(np.std([0, 1, 1, -1], ddof=1) / 2),
        "p": 1.0,
    }
    assert found["margin"].facts() == {
        "difference": pytest.approx(0.2),
        "stderr": pytest.approx(np.std([0.2, 0.4, 0.1, 0.1], ddof=1) / 2),
    }


def test_the_sentence_says_whether_they_differ():
    said = Difference("acc", 70, 36, 1152, 34 / 1152, 0.0088, 0.0012).sentence("A", "B")
    assert said == (
        "by acc B is right on 34 items more than A, of 1,152 items (+2.95 points +- 0.88, p = 0.0012): "
        "they differ; at this n a difference under 1.7 points is noise"
    )
    assert "as often as A" in difference("acc", [True, False], [False, True]).sentence("A", "B")
    assert "no difference is shown" in difference("acc", [True, False], [False, True]).sentence("A", "B")
    assert difference("acc", [True], [False]).sentence("A", "B").endswith("a single one says nothing")
    assert "noise" not in difference("acc", [True, False], [True, False]).sentence("A", "B")
    assert Shift(0.1, 0.2).sentence("A", "B").endswith("no difference is shown")
    assert Shift(-0.1, 0.02).sentence("A", "B").endswith("they differ")


def test_other_items_are_refused():
    other = summarise([{**row, "label": 0} for row in outcomes([True, True]).rows], 0)
    with pytest.raises(TaskError, match="asked different items"):
        compare(outcomes([True, True]), other)
    with pytest.raises(TaskError, match="2 items of one model, 1 of the other"):
        difference("acc", [True, True], [True])
