"""Running out of memory: recognised by its message, then halved, with the same results."""

import pytest
import torch

from gptlab.eval.score import log_likelihoods
from gptlab.eval.validation import mean_loss
from gptlab.machine.memory import in_parts, ran_out
from gptlab.model.causal_lm import LogitsOnly
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.sample import generate

CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 8000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
MPS = RuntimeError(
    "MPS backend out of memory (MPS allocated: 5.50 GB, other allocations: 14.76 GB, max allowed: 20.40 GB). Tried to "
    "allocate 147.24 MB on private pool."
)


def test_the_allocators_own_errors_are_known():
    assert ran_out(CPU)
    assert ran_out(CUDA)
    assert ran_out(MPS)
    assert ran_out(MemoryError())
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(caught.value)


@pytest.mark.parametrize("most", range(1, 9))
@pytest.mark.parametrize("error", [CPU, CUDA], ids=["cpu", "cuda"])
def test_parts_are_halved_until_they_fit_and_stay_in_order(most, error):
    def work(parts):
        if len(parts) > most:
            raise error
        return sum(parts)

    done = list(in_parts(work, range(7)))
    assert [part for parts, _ in done for part in parts] == list(range(7))
    assert all(total == sum(parts) and len(parts) <= most for parts, total in done)


def test_one_that_does_not_fit_and_other_errors_are_raised():
    def fails(parts):
        raise CUDA if len(parts) < 3 else ValueError("no")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_parts(fails, range(2)))
    with pytest.raises(ValueError, match="no"):
        list(in_parts(fails, range(3)))


class Small(LogitsOnly):
    """A model that runs out of memory above a number of rows."""

    def __init__(self, model, most):
        self.model, self.most, self.calls = model, most, []

    def __call__(self, ids):
        self.calls.append(len(ids))
        if len(ids) > self.most:
            raise CPU
        return self.model(ids)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(ModelConfig(n_layer=2, n_head=2, n_embd=16, context=16, vocab_size=64)).eval()


def test_a_validation_goes_on_with_smaller_batches(model):
    batches = [(torch.randint(64, (5, 16)), torch.randint(64, (5, 16))) for _ in range(2)]
    small = Small(model, 2)
    whole = mean_loss(model, batches, device="cpu")
    halved = mean_loss(small, batches, device="cpu")
    assert (halved.tokens, halved.nats) == (whole.tokens, pytest.approx(whole.nats, rel=1e-6))
    assert max(small.calls) == 5


def test_a_task_goes_on_with_smaller_batches(model):
    pairs = [([n, n + 1], [n + 2, n + 3]) for n in range(9)]
    whole = log_likelihoods(model, pairs, context=16, batch_tokens=64, device="cpu")
    halved = log_likelihoods(Small(model, 1), pairs, context=16, batch_tokens=64, device="cpu")
    assert [score.log_likelihood for score in halved] == pytest.approx(
        [score.log_likelihood for score in whole], rel=1e-5
    )


def test_samples_are_written_in_smaller_numbers(model, monkeypatch):
    whole = generate(model, [[1, 2], [3, 4]], max_tokens=6, temperature=0.0, samples=5)
    new_cache = model.new_cache

    def small_cache(rows, *rest):
        if rows > 4:
            raise CUDA
        return new_cache(rows, *rest)

    monkeypatch.setattr(model, "new_cache", small_cache)
    assert torch.equal(generate(model, [[1, 2], [3, 4]], max_tokens=6, temperature=0.0, samples=5), whole)
    drawn = generate(model, [1, 2], max_tokens=12, seed=3, samples=6)
    assert len({tuple(row) for row in drawn.tolist()}) == 6
    ended = generate(model, [1, 2], max_tokens=12, seed=3, samples=6, stop_id=int(drawn[0, 2]))
    assert ended.shape[0] == 6
