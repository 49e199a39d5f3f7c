import math
import random
import re

import numpy as np
import pytest

from gptlab.errors import TaskError
from gptlab.eval.accuracy import Accuracy, summarise
from gptlab.eval.paired import AccuracyDifference, Shift, compare, difference, losses, mcnemar, shift


def outcomes(
    right: list[bool], margins: list[float] | None = None, bits: list[float] | None = None
) -> Accuracy:
    return summarise(
        [
            {
                "i": i,
                "label": 1,
                "log_likelihoods": [-1.0, -2.0],
                "pred": int(hit),
                "pred_norm": int(hit),
                "margin": margins[i] if margins else 0.0,
                "answer_bits_per_byte": bits[i] if bits else None,
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
        "n": 4,
        "difference": pytest.approx(0.2),
        "stderr": pytest.approx(np.std([0.2, 0.4, 0.1, 0.1], ddof=1) / 2),
    }


def test_what_a_task_does_not_measure_is_not_compared():
    bits = [1.0, 2.0, 3.0], [1.5, 1.0, 2.5]
    first, second = (outcomes([True, False, True], bits=each) for each in bits)
    found = compare(first, second)
    assert list(found) == ["acc", "acc_norm", "margin", "answer_bits_per_byte"]
    assert found["answer_bits_per_byte"].facts() == {
        "n": 3,
        "difference": pytest.approx(-1 / 3),
        "stderr": pytest.approx(np.std([0.5, -1, -0.5], ddof=1) / math.sqrt(3)),
    }
    assert "the right answer's bits per byte, of which fewer are better," in (
        found["answer_bits_per_byte"].sentence("A", "B")
    )
    alone = [summarise([{**row, "pred_norm": None, "margin": None} for row in first.rows], 0)] * 2
    assert list(compare(*alone)) == ["acc", "answer_bits_per_byte"]


def test_the_p_of_a_shift_is_the_normal_tests():
    stats = pytest.importorskip("scipy.stats")
    for z in (0.0, -0.7, 1.96, 5.0):
        assert Shift("x", "nats", 9, 0.2 * z, 0.2).p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert Shift("x", "nats", 1, 0.5, None).p == 1.0
    assert (Shift("x", "nats", 9, 0.0, 0.0).p, Shift("x", "nats", 9, 0.5, 0.0).p) == (1.0, 0.0)


def test_the_sentence_says_which_scores_higher_there():
    said = AccuracyDifference("acc", 70, 36, 1152, 34 / 1152, 0.0088, 0.0012).sentence("A", "B")
    assert said == (
        "by acc B scores 2.95 +- 0.88 points above A on these 1,152 items "
        "(70 that only it has right, 36 that only A has, p = 0.0012)"
    )
    assert "2.95 +- 0.88 points below A" in AccuracyDifference(
        "acc", 36, 70, 1152, -34 / 1152, 0.0088, 0.0012
    ).sentence("A", "B")
    assert shift("over the same 3 windows", "nats", [1.0, 2.0, 3.0], [0.9, 1.91, 2.9]).sentence("A", "B") == (
        "over the same 3 windows B is 0.0967 +- 0.0033 nats below A"
    )


@pytest.mark.parametrize(
    "found",
    [
        difference("acc", [True, False], [False, True]),
        difference("acc", [True, False], [True, False]),
        difference("acc", [True], [False]),
        AccuracyDifference("acc", 40, 36, 1152, 4 / 1152, 0.0076, 0.73),
        Shift("in the margin", "nats", 9, 0.1, 0.2),
        Shift("in the margin", "nats", 1, 0.1, None),
        Shift("in the margin", "nats", 9, 0.0, 0.0),
    ],
)
def test_where_no_difference_is_shown_nobody_is_called_equal(found):
    said = found.sentence("A", "B")
    assert "no difference is shown" in said
    assert not re.search("equal|the same as|as often|differ |alike|noise", said)
    if found.stderr:
        assert re.search(r"B may (score|be) from -\d.* to \+\d.* from A", said)


def test_a_difference_is_never_said_to_be_larger_than_all_items():
    said = difference("acc", [True, False, False], [False, True, False]).sentence("A", "B")
    assert "B may score from -100.00 to +100.00 points from A" in said


def test_losses_are_paired_by_window():
    chance = random.Random(0)
    first = [4 + chance.gauss(0, 1) for _ in range(200)]
    second = [loss - 0.01 + chance.gauss(0, 0.02) for loss in first]
    found = losses(first, second)
    assert found.difference == pytest.approx(np.mean(second) - np.mean(first))
    assert found.stderr == pytest.approx(np.std(np.subtract(second, first), ddof=1) / math.sqrt(200))
    assert "over the same 200 windows B is 0.0" in found.sentence("A", "B")
    with pytest.raises(TaskError, match="2 windows of one model, 3 of the other"):
        losses([1.0, 2.0], [1.0, 2.0, 3.0])


def test_other_items_are_refused():
    other = summarise([{**row, "label": 0} for row in outcomes([True, True]).rows], 0)
    with pytest.raises(TaskError, match="asked different items"):
        compare(outcomes([True, True]), other)
    with pytest.raises(TaskError, match="2 items of one model, 1 of the other"):
        difference("acc", [True, True], [True])
