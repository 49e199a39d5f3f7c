import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from causal_models import VOCAB, Called, Headed, Recurrent
from torch import nn

from gptlab.eval.score import StopEvaluation, log_likelihoods
from gptlab.model.causal_lm import CausalLM
from gptlab.model.gpt import GPT, ModelConfig

CONTEXT = 16


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


def score(model: CausalLM, pairs: list[tuple[list[int], list[int]]], batch_tokens: int = 64):
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
    model = GPT(ModelConfig(**SHAPE | change))
    whole = [s.log_likelihood for s in score(Called(model), some_pairs())]
    assert [s.log_likelihood for s in score(model, some_pairs())] == pytest.approx(whole, abs=1e-5)


SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": CONTEXT, "vocab_size": VOCAB}


def families(count: int = 30) -> list[tuple[list[int], list[int]]]:
    """Pairs of which one to four in a row have a context in common; some are cut, some end in one token."""
    chance = random.Random(2)
    ids = lambda fewest, most: [chance.randrange(VOCAB) for _ in range(chance.randint(fewest, most))]  # noqa: E731
    pairs: list[tuple[list[int], list[int]]] = []
    for _ in range(count):
        before = ids(1, CONTEXT + 2)
        pairs += [(list(before), ids(1, 6)) for _ in range(chance.randint(1, 4))]
    return pairs


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"position": "rope", "n_kv_head": 2, "norm": "rmsnorm", "mlp": "swiglu"},
        {"position": "none", "norm_order": "post", "bias": False},
        {"position": "alibi", "n_kv_head": 2},
        {"position": "rope", "qk_norm": True, "logit_soft_cap": 2.0, "tie_embeddings": False, "n_kv_head": 1},
    ],
)
@pytest.mark.parametrize("batch_tokens", [1, 50, 100_000])
def test_a_shared_context_read_once_gives_what_reading_it_for_each_ending_gives(change, batch_tokens):
    torch.manual_seed(0)
    model, pairs = GPT(ModelConfig(**SHAPE | change)), families()
    plain = score(Called(model), pairs, batch_tokens)
    shared = score(model, pairs, batch_tokens)
    for one, other in zip(shared, plain, strict=True):
        assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-4)
        assert (one.tokens, one.greedy, one.cut) == (other.tokens, other.greedy, other.cut)


def test_a_shared_context_is_read_once():
    read: list[tuple[int, int]] = []

    class Counting(GPT):
        def hidden_states_at(self, ids_BT, token_indices_N, *layout):
            read.append((ids_BT.numel(), len(token_indices_N)))
            return super().hidden_states_at(ids_BT, token_indices_N, *layout)

        def hidden_states(self, ids_BT, cache=None):
            raise AssertionError("read as plain texts")

    score(Counting(ModelConfig(**SHAPE)), [([1, 2, 3, 4, 5], [6, 7, n]) for n in range(4)])
    assert read == [(5 + 4 * 2, 1 + 4 * 2)]


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
    rounded = [s.log_likelihood for s in score(Called(lambda ids_BT: model(ids_BT).bfloat16()), pairs)]
    upcast = [s.log_likelihood for s in score(Called(lambda ids_BT: model(ids_BT).bfloat16().float()), pairs)]
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


def test_equal_pairs_have_equal_scores_to_the_last_bit():
    """Elsewhere in a batch they might differ by rounding, and the first of two equal endings be first no more."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=2, n_head=2, n_embd=32, context=32, vocab_size=64)).eval()
    pairs = [([1, 2, 3], [4, 5]), ([9] * 7, [4, 5]), ([1, 2, 3], [6]), ([1, 2, 3], [4, 5]), ([9] * 7, [4, 5])]
    told = []
    scores = log_likelihoods(model, pairs, context=32, device="cpu", batch_tokens=16, advance=told.append)
    assert scores[0] == scores[3]
    assert scores[1] == scores[4]
    assert sum(told) == len(pairs)
    alone = [log_likelihoods(model, [pair], context=32, device="cpu")[0] for pair in pairs]
    assert [score.log_likelihood for score in scores] == pytest.approx(
        [score.log_likelihood for score in alone], abs=1e-5
    )
