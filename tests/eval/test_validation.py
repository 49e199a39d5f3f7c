import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from causal_models import VOCAB, Fixed, Headed, Recurrent

from gptlab.errors import TaskError
from gptlab.eval.score import CHUNK_TOKENS, StopEvaluation, log_likelihoods
from gptlab.eval.validation import mean_loss

CONTEXT = 16


@pytest.mark.parametrize("kind", [Recurrent, Headed])
def test_mean_loss_is_the_cross_entropy_of_all_targets(kind):
    # More targets than one chunk of logits holds.
    rows = CHUNK_TOKENS["cpu"] // CONTEXT + 3
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
    log_likelihoods(model, [([1, 2], [3])], context=CONTEXT, device="cpu")
    mean_loss(model, [(torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))], device="cpu")
    model(torch.tensor([[1, 2]])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
