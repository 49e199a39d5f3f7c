import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.errors import TaskError
from gptlab.eval.item import Item
from gptlab.eval.score import (
    CHUNK_TOKENS,
    StopEvaluation,
    log_likelihoods,
    mean_loss,
    multiple_choice,
    summarise,
)
from gptlab.model.gpt import GPT, ModelConfig

VOCAB = 29
CONTEXT = 16


class Recurrent(nn.Module):
    """A causal model of a few lines: what it predicts depends on every token before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCAB, 12)
        self.recurrent = nn.GRU(12, 12, batch_first=True)
        self.read_out = nn.Linear(12, VOCAB)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, ids_BT: Tensor) -> Tensor:
        self.shapes.append(tuple(ids_BT.shape))
        return self.read_out(self.recurrent(self.embed(ids_BT))[0]) * 5


class Headed(Recurrent):
    """The same one with its head apart, as GPT has it."""

    def hidden(self, ids_BT: Tensor) -> Tensor:
        self.shapes.append(tuple(ids_BT.shape))
        return self.recurrent(self.embed(ids_BT))[0]

    def head(self, x_BTD: Tensor) -> Tensor:
        return self.read_out(x_BTD) * 5

    def forward(self, ids_BT: Tensor) -> Tensor:
        raise AssertionError("all logits were asked for")


def slowly(model: nn.Module, before: list[int], ending: list[int]) -> tuple[float, bool]:
    """One pair, one token at a time, each from the last CONTEXT ids of all that the cut leaves."""
    kept = (before + ending)[-CONTEXT - 1 :]
    total, greedy = 0.0, True
    for place in range(len(kept) - len(ending), len(kept)):
        probabilities = F.softmax(model(torch.tensor([kept[:place]]))[0, -1].double(), -1)
        total += math.log(probabilities[kept[place]])
        greedy = greedy and int(probabilities.argmax()) == kept[place]
    return total, greedy


def some_pairs(count: int = 40) -> list[tuple[list[int], list[int]]]:
    generator = np.random.default_rng(1)

    def ids(fewest: int, most: int) -> list[int]:
        return generator.integers(0, VOCAB, generator.integers(fewest, most + 1)).tolist()

    return [(ids(1, 2 * CONTEXT), ids(1, CONTEXT)) for _ in range(count)]


def score(model: nn.Module, pairs: list[tuple[list[int], list[int]]], batch_tokens: int = 64):
    return log_likelihoods(model, pairs, context=CONTEXT, batch_tokens=batch_tokens, device="cpu")


@pytest.mark.parametrize("kind", [Recurrent, Headed])
@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_equals_one_token_at_a_time_whatever_the_batch(kind, batch_tokens):
    pairs, reference = some_pairs(), Recurrent()
    with torch.inference_mode():
        expected = [slowly(reference, *pair) for pair in pairs]
    scores = score(kind(), pairs, batch_tokens)
    for (before, ending), got, (total, greedy) in zip(pairs, scores, expected, strict=True):
        assert got.log_likelihood == pytest.approx(total, abs=1e-4)
        assert got.tokens == len(ending)
        assert got.greedy == greedy
        assert got.cut == max(0, len(before) + len(ending) - 1 - CONTEXT)


@pytest.mark.parametrize("change", [{}, {"tie_embeddings": False, "logit_soft_cap": 2.0, "position": "rope"}])
def test_gpt_is_asked_for_logits_only_where_endings_are(change):
    torch.manual_seed(0)
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": CONTEXT, "vocab_size": VOCAB}
    model = GPT(ModelConfig(**shape | change))
    whole = [s.log_likelihood for s in score(lambda ids_BT: model(ids_BT), some_pairs())]
    assert [s.log_likelihood for s in score(model, some_pairs())] == pytest.approx(whole, abs=1e-5)


def test_greedy_ending_is_recognised():
    model = Recurrent()
    ids = [3, 1, 4]
    with torch.inference_mode():
        for _ in range(4):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    wrong = [*ids[:-1], (ids[-1] + 1) % VOCAB]
    assert [s.greedy for s in score(model, [(ids[:3], ids[3:]), (wrong[:3], wrong[3:])])] == [True, False]


def test_batches_are_bounded_and_the_longest_comes_first():
    model = Recurrent()
    score(model, some_pairs(), batch_tokens=40)
    assert all(rows * length <= 40 for rows, length in model.shapes)
    lengths = [length for _, length in model.shapes]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == CONTEXT  # nothing longer than the model takes
    assert len(lengths) < 40  # and more than one sequence in a batch


def test_sixteen_bit_logits_are_normalised_in_float32():
    pairs, model = some_pairs(), Recurrent()
    rounded = [s.log_likelihood for s in score(lambda ids_BT: model(ids_BT).bfloat16(), pairs)]
    upcast = [s.log_likelihood for s in score(lambda ids_BT: model(ids_BT).bfloat16().float(), pairs)]
    assert rounded == upcast


def test_no_pairs_no_scores():
    assert score(Recurrent(), []) == []


def test_of_an_ending_longer_than_the_context_the_end_is_scored():
    model = Recurrent()
    ids = [number % VOCAB for number in range(CONTEXT + 4)]
    whole, alone = score(model, [(ids[:2], ids[2:]), (ids[3:4], ids[4:])])
    assert whole.log_likelihood == pytest.approx(alone.log_likelihood)
    assert (whole.tokens, whole.cut) == (CONTEXT, 3)
    assert (alone.tokens, alone.cut) == (CONTEXT, 0)


@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_pair_without_ids_is_a_mistake_of_the_caller(pair):
    with pytest.raises(ValueError, match="both need one"):
        score(Recurrent(), [pair])


def test_stop_is_heeded_between_batches():
    model = Recurrent()
    with pytest.raises(StopEvaluation):
        log_likelihoods(
            model,
            some_pairs(),
            context=CONTEXT,
            batch_tokens=1,
            device="cpu",
            stop=lambda: len(model.shapes) == 3,
        )
    assert len(model.shapes) == 3


class Fixed(nn.Module):
    """Gives every id the same probability wherever it stands, so that a score can be worked out by hand."""

    def __init__(self, probabilities: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.logits.expand(*ids_BT.shape, -1)


def choose(items: list[Item], model: nn.Module | None = None, context: int = 8):
    model = model or Fixed([0.5, 0.25, 0.25])
    return multiple_choice(model, items, context=context, batch_tokens=64, device="cpu")


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
    assert result.rows == [
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


@pytest.mark.parametrize("kind", [Recurrent, Headed])
def test_mean_loss_is_the_cross_entropy_of_all_targets(kind):
    # More targets than one chunk of logits holds.
    rows = CHUNK_TOKENS // CONTEXT + 3
    ids_BT = torch.randint(VOCAB, (rows, CONTEXT + 1), generator=torch.Generator().manual_seed(2))
    token_bytes = np.arange(VOCAB) % 5
    batches = [(part[:, :-1], part[:, 1:]) for part in (ids_BT[:-2], ids_BT[-2:])]
    loss = mean_loss(kind(), batches, device="cpu", token_bytes=token_bytes)
    with torch.inference_mode():
        expected = F.cross_entropy(Recurrent()(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten()).item()
    assert loss.per_token == pytest.approx(expected, rel=1e-6)
    assert loss.tokens == rows * CONTEXT
    text_bytes = sum(int(token_bytes[token]) for token in ids_BT[:, 1:].flatten())
    assert loss.text_bytes == text_bytes
    assert loss.bits_per_byte == pytest.approx(expected * loss.tokens / text_bytes / math.log(2), rel=1e-6)


def test_mean_loss_without_token_bytes_knows_no_bits_per_byte():
    loss = mean_loss(Fixed([0.5, 0.5]), [(torch.zeros(1, 4).long(), torch.ones(1, 4).long())], device="cpu")
    assert loss.per_token == pytest.approx(math.log(2))
    assert (loss.text_bytes, loss.bits_per_byte) == (None, None)


def test_a_share_of_nothing_is_no_loss_but_a_whole_of_nothing_is_refused():
    share = mean_loss(Recurrent(), [], device="cpu", token_bytes=np.ones(VOCAB, dtype=np.int64))
    assert (share.nats, share.tokens, share.text_bytes, share.bits_per_byte) == (0.0, 0, 0, None)
    with pytest.raises(TaskError, match=r"no token to validate on.*--val-tokens"):
        _ = share.per_token


def test_mean_loss_heeds_stop():
    batch = torch.zeros(1, 4).long(), torch.zeros(1, 4).long()
    with pytest.raises(StopEvaluation):
        mean_loss(Recurrent(), [batch], device="cpu", stop=lambda: True)


def test_nothing_keeps_a_gradient_and_the_model_can_train_afterwards():
    model = Recurrent()
    score(model, some_pairs(4))
    mean_loss(model, [(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))], device="cpu")
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_progress_is_shown_unless_quiet(monkeypatch, capsys):
    monkeypatch.setattr("gptlab.progress.QUIET_S", 0.0)
    keywords = {"context": CONTEXT, "batch_tokens": 64, "device": "cpu"}
    log_likelihoods(Recurrent(), some_pairs(8), **keywords)
    assert "scoring 8 endings of 8 endings" in capsys.readouterr().err
    log_likelihoods(Recurrent(), some_pairs(8), **keywords, quiet=True)
    assert capsys.readouterr().err == ""
