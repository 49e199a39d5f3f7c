import math
import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from causal_models import Fixed
from torch import nn

from gptlab.errors import TaskError
from gptlab.eval.accuracy import _row, multiple_choice, summarise
from gptlab.eval.item import Item, Lazy
from gptlab.eval.score import Score, log_likelihoods


def choose(items: Sequence[Item], model: nn.Module | None = None, context: int = 8, quiet: bool = False):
    model = model or Fixed([0.5, 0.25, 0.25])
    return multiple_choice(model, items, context=context, batch_tokens=64, device="cpu", quiet=quiet)


def test_three_items_scored_by_hand():
    pairs = (([2], [0, 0, 0]), ([2], [1]))  # 1/8 for three tokens, 1/4 for one
    result = choose(
        [
            Item(pairs=pairs, label=1, lengths=(3, 1)),
            Item(pairs=pairs, label=0, lengths=(3, 1)),
            Item(pairs=pairs[::-1], label=0, lengths=(1, 100)),
        ]
    )
    eighth, quarter = pytest.approx(math.log(1 / 8)), pytest.approx(math.log(1 / 4))
    unseen = ("margin", "answer_bits_per_byte")
    assert [{key: value for key, value in row.items() if key not in unseen} for row in result.rows] == [
        {"i": 0, "label": 1, "log_likelihoods": [eighth, quarter], "pred": 1, "pred_norm": 0},
        {"i": 1, "label": 0, "log_likelihoods": [eighth, quarter], "pred": 1, "pred_norm": 0},
        {"i": 2, "label": 0, "log_likelihoods": [quarter, eighth], "pred": 0, "pred_norm": 1},
    ]
    assert (result.acc, result.acc_norm) == (2 / 3, 1 / 3)
    assert result.stderr == pytest.approx(np.std([1, 0, 1], ddof=1) / math.sqrt(3))
    assert result.stderr_norm == pytest.approx(np.std([0, 1, 0], ddof=1) / math.sqrt(3))
    assert (result.n, result.truncated) == (3, 0)


def test_the_rows_of_several_processes_join_to_the_same_summary():
    pairs = (([2], [0, 0, 0]), ([2], [1]))
    items = [Item(pairs=pairs, label=number % 2, lengths=(3, 1)) for number in range(5)]
    whole, first, second = choose(items), choose(items[:2]), choose(items[2:])
    joined = summarise(first.rows + second.rows, first.truncated + second.truncated)
    assert replace(joined, rows=[]) == replace(whole, rows=[])
    assert joined.n == 5


def test_of_equal_choices_the_first_is_taken():
    assert choose([Item(pairs=(([0], [1]), ([0], [2])), label=1, lengths=(1, 1))]).rows[0]["pred"] == 0


def test_an_ending_of_no_length_is_never_chosen_by_length():
    row = choose([Item(pairs=(([2], [0]), ([2], [1])), label=0, lengths=(0, 1))]).rows[0]
    assert (row["pred"], row["pred_norm"]) == (0, 1)


def test_a_single_choice_is_right_if_each_of_its_tokens_is_the_likeliest():
    likely, unlikely = Item(pairs=(([2], [0, 0]),), label=0), Item(pairs=(([2], [0, 1]),), label=0)
    result = choose([likely, unlikely, likely])
    assert [row["pred"] for row in result.rows] == [0, -1, 0]
    assert result.acc == 2 / 3
    assert (result.acc_norm, result.margin, result.stderr_norm, result.stderr_margin) == (None,) * 4
    nats = [math.log(4), math.log(8), math.log(4)]
    assert result.perplexity == pytest.approx(math.exp(sum(nats) / 3))
    error = np.std(nats, ddof=1) / math.sqrt(3)
    assert result.perplexity_stderr == pytest.approx(result.perplexity * error)


def test_bits_per_byte_of_the_right_choice():
    pairs = (([2], [0, 0, 0]), ([2], [1]))  # 3 bits; 2 bits
    first, second = (Item(pairs=pairs, label=label, lengths=(3, 1), answer_bytes=4) for label in (0, 1))
    result = choose([first, second])
    assert [row["answer_bits_per_byte"] for row in result.rows] == pytest.approx([3 / 4, 2 / 4])
    assert result.answer_bits_per_byte == pytest.approx(5 / 8)
    assert result.answer_bits_per_byte_stderr == pytest.approx(1 / 8)
    assert result.perplexity is None
    assert choose([first, replace(second, answer_bytes=None)]).answer_bits_per_byte is None


def test_truncated_items_are_counted_once():
    fits, long = ([0] * 3, [1]), ([0] * 9, [1])
    items = [
        Item(pairs=pairs, label=0, lengths=(1, 1)) for pairs in ((fits, fits), (long, long), (fits, long))
    ]
    assert choose(items).truncated == 2


def test_one_item_has_no_standard_error():
    result = choose([Item(pairs=(([0], [0]), ([0], [1])), label=0, lengths=(1, 1))])
    assert (result.acc, result.stderr, result.stderr_norm, result.n) == (1.0, None, None, 1)


def test_nothing_to_score_is_refused():
    with pytest.raises(TaskError, match="no item"):
        choose([])


def test_diverged_model_is_refused():
    with pytest.raises(TaskError, match=r"item 0: the log-likelihoods are .*nan.*diverged"):
        choose([Item(pairs=(([0], [0]), ([0], [1])), label=0, lengths=(1, 1))], Fixed([math.nan] * 3))


def test_progress_is_shown_unless_quiet(monkeypatch, capsys):
    monkeypatch.setattr("gptlab.progress.QUIET_S", 0.0)
    items = [Item(pairs=(([0], [0]), ([0], [1])), label=0, lengths=(1, 1))] * 8
    choose(items)
    assert "scoring 8 items of 8 items" in capsys.readouterr().err
    choose(items, quiet=True)
    assert capsys.readouterr().err == ""


def test_margin_is_the_right_choice_above_the_wrong_ones_for_its_length():
    pairs = (([2], [0, 0, 0]), ([2], [1]), ([2], [0, 1]))  # 1/8, 1/4, 1/8
    result = choose([Item(pairs=pairs, label=label, lengths=(3, 1, 2)) for label in (0, 1, 1)])
    means = [math.log(1 / 2), math.log(1 / 4), math.log(1 / 8) / 2]
    first, others = means[0] - (means[1] + means[2]) / 2, means[1] - (means[0] + means[2]) / 2
    assert [row["margin"] for row in result.rows] == pytest.approx([first, others, others])
    assert result.margin == pytest.approx(np.mean([first, others, others]))
    assert result.stderr_margin == pytest.approx(np.std([first, others, others], ddof=1) / math.sqrt(3))


def test_the_margin_of_a_model_blind_to_the_question_is_zero():
    chance = random.Random(0)
    items: list[Item] = []
    for number in range(400):
        endings = [[chance.choice([0, 0, 1]) for _ in range(chance.randint(1, 9))] for _ in range(4)]
        pairs = tuple(([2], ending) for ending in endings)
        items.append(Item(pairs=pairs, label=number % 4, lengths=tuple(map(len, endings))))
    score = choose(items)
    assert score.stderr_margin is not None
    assert abs(score.margin) < 3 * score.stderr_margin


def test_items_are_scored_in_windows_and_the_result_is_one(monkeypatch):
    items = [Item(pairs=(([2], [0, 0]), ([2], [1])), label=n % 2, lengths=(2, 1)) for n in range(7)]
    whole = choose(items)
    monkeypatch.setattr("gptlab.eval.accuracy.WINDOW_TOKENS", 9)  # two items
    counts: list[int] = []

    def counted(model, pairs, **options):
        counts.append(len(pairs))
        return log_likelihoods(model, pairs, **options)

    monkeypatch.setattr("gptlab.eval.accuracy.log_likelihoods", counted)
    assert choose(Lazy(items.__getitem__, range(7))) == whole
    assert counts == [4, 4, 4, 2]


def test_memory_does_not_grow_with_the_items(monkeypatch):
    monkeypatch.setattr("gptlab.eval.accuracy.WINDOW_TOKENS", 4_000)

    def make(number: int) -> Item:
        before = [number % 3] * 300
        return Item(pairs=((before, [0] * 40), (before, [1] * 40)), label=0, lengths=(40, 40))

    def peak(count: int) -> int:
        tracemalloc.start()
        choose(Lazy(make, range(count)), context=512)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(50)
    # What stays of an item is its line of results; its tokens would be 400 times eight bytes.
    assert peak(400) - peak(200) < 200 * 800


def test_bits_per_byte_of_an_answer_longer_than_the_context_are_those_of_its_end():
    ending = list(range(8))
    item = Item(pairs=(([9], ending),), label=0, lengths=(), answer_bytes=8)
    half = Score(log_likelihood=-4 * math.log(2), tokens=4, greedy=False, cut=5)
    whole = Score(log_likelihood=-8 * math.log(2), tokens=8, greedy=False, cut=0)
    assert [_row(0, item, [score])["answer_bits_per_byte"] for score in (half, whole)] == pytest.approx(
        [1, 1]
    )
