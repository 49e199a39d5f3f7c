import math

import pytest

from gptlab.actions.several_tasks import Beside, SideBySide, summary
from gptlab.eval.accuracy import Accuracy, summarise
from gptlab.eval.paired import compare
from gptlab.study.verdict import holm

N = 40


def scored(right: int, bits: float, *, normed: bool = True, known: bool = True) -> Accuracy:
    """The first `right` of N items are right; bits per byte alternate about a mean."""
    return summarise(
        [
            {
                "i": i,
                "label": 1,
                "log_likelihoods": [-1.0, -2.0],
                "pred": int(i < right),
                "pred_norm": int(i < right) if normed else None,
                "margin": 0.1 * i if normed else None,
                "answer_bits_per_byte": bits * (1 + 0.01 * (-1) ** i) if known else None,
            }
            for i in range(N)
        ],
        truncated=0,
    )


def beside(task: str, first: Accuracy, second: Accuracy) -> Beside:
    return Beside(task, (first, second), compare(first, second))


def test_two_models_on_several_tasks():
    found = SideBySide(
        [
            beside("arc_easy", scored(10, 1.5), scored(30, 1.2)),
            beside("piqa", scored(20, 1.0), scored(14, 1.0)),
            beside("blimp", scored(30, 1.1, normed=False), scored(31, 1.3, normed=False)),
        ]
    )
    table = found.table().splitlines()
    assert [line.split()[0] for line in table[2:]] == ["arc_easy,", "piqa,", "blimp,"]
    assert table[2].split()[1:5] == ["acc_norm", "25.00", "75.00", "+50.00"]
    assert table[4].split()[1:5] == ["acc", "75.00", "77.50", "+2.50"]
    assert len({len(line) for line in table[1:]}) == 1
    # Twenty gained and none lost; six lost and none gained; bits that differ by far more than their error, or not.
    raw = [2 * 0.5**20, 0.0, 2 * 0.5**6, 1.0, 1.0, 0.0]
    assert list(found.corrected.values()) == pytest.approx(holm(raw), abs=1e-12)
    assert found.corrected["piqa", "acc_norm"] == pytest.approx(
        3 * 2 * 0.5**6
    )  # 0.03 alone, and three are no smaller
    assert found.sentence() == (
        "3 tasks were looked at, 6 differences in all: after Holm's correction for so many, B scores higher on "
        "arc_easy; needs fewer bits per byte for right answers on arc_easy; needs more bits per byte for right answers "
        "on blimp; no other difference is shown."
    )


def test_no_difference_is_never_called_equality():
    same = scored(10, 1.0, known=False), scored(10, 1.0, known=False)
    found = SideBySide([beside("arc_easy", *same), beside("piqa", *same)])
    assert found.sentence().endswith(
        "2 differences in all: after Holm's correction for so many, none is shown."
    )
    assert found.table().splitlines()[-1].split()[-4:] == ["-"] * 4


def test_a_lower_score_is_said():
    found = SideBySide([beside("piqa", scored(30, 1.0), scored(10, 1.0))])
    assert "B scores lower on piqa; no other" in found.sentence()


def test_the_scores_of_one_model():
    def facts(task: str, score: Accuracy) -> dict[str, object]:
        return {
            "task": task,
            "n": score.n,
            "acc": score.acc,
            "stderr": score.stderr,
            "acc_norm": score.acc_norm,
            "stderr_norm": score.stderr_norm,
            "answer_bits_per_byte": score.answer_bits_per_byte,
            "answer_bits_per_byte_stderr": score.answer_bits_per_byte_stderr,
        }

    lines = summary(
        [
            facts("arc_easy", scored(12, 1.5)),
            facts("blimp", scored(30, 1.1, normed=False)),
            facts("lambada_openai", scored(3, 1.1, normed=False, known=False)),
        ]
    ).splitlines()
    error = 100 * math.sqrt(0.3 * 0.7 / (N - 1))
    assert lines[1].split() == [
        *("arc_easy,", "acc_norm", "30.00", "+-", f"{error:.2f}", "25", "1.5000", "+-", "0.0024"),
        *["not", "shown", "to", "be", "above", "chance", "(25", "%)"],
    ]
    assert lines[2].split()[:3] == ["blimp,", "acc", "75.00"]
    assert "chance" not in lines[2]
    assert lines[3].split()[-2:] == ["-", "-"]
