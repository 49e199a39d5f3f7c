import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model import loss
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.loss import IGNORED, next_token_loss

BATCH, TIME, WIDTH, VOCABULARY = 3, 11, 16, 37


def inputs(*, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(BATCH, TIME, WIDTH, generator=generator) * scale
    weight_VD = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets_BT = torch.randint(VOCABULARY, (BATCH, TIME), generator=generator)
    return x_BTD.requires_grad_(), weight_VD.requires_grad_(), targets_BT


def whole_loss(x_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, cap: float | None = None) -> Tensor:
    """Compute the loss from all logits at once, with torch."""
    logits_BTV = F.linear(x_BTD, weight_VD)
    if cap is not None:
        logits_BTV = cap * torch.tanh(logits_BTV / cap)
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten(), reduction="sum")


def gradients(total: Tensor, *of: Tensor) -> list[Tensor]:
    # A scale other than one, as from a micro-batch's share or a gradient scaler.
    return list(torch.autograd.grad(total * 0.37, of))


@pytest.fixture(params=[1, 64], ids=["as it is", "padded"], autouse=True)
def multiple(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad the head's rows on a CPU as on a GPU."""
    monkeypatch.setitem(loss.HEAD_MULTIPLE, "cpu", request.param)


@pytest.fixture(params=[(1000, 8, 1), (16, 8, 3), (1, 5, 5), (1, 1000, 33)], ids=lambda p: f"{p[2]}-chunks")
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    tokens, most, count = request.param
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", tokens)
    monkeypatch.setattr(loss, "CACHED_ROWS", max(1, tokens // 4))
    monkeypatch.setattr(loss, "MOST_CHUNKS", most)
    return count


@pytest.mark.parametrize("cap", [None, 5.0])
def test_the_loss_and_its_gradients_are_torchs(chunks: int, cap: float | None) -> None:
    x_BTD, weight_VD, targets_BT = inputs()
    ours = next_token_loss(x_BTD, weight_VD, targets_BT, logit_soft_cap=cap)
    theirs = whole_loss(x_BTD, weight_VD, targets_BT, cap)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        gradients(ours, x_BTD, weight_VD), gradients(theirs, x_BTD, weight_VD), atol=1e-5, rtol=1e-5
    )


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("cap", [None, 5.0])
def test_under_bfloat16_autocast_it_is_as_near_to_the_truth_as_torchs(cap: float | None) -> None:
    x_BTD, weight_VD, targets_BT = inputs(scale=0.5)
    truth = whole_loss(x_BTD, weight_VD, targets_BT, cap)
    with torch.autocast("cpu", torch.bfloat16):
        ours = next_token_loss(x_BTD, weight_VD, targets_BT, logit_soft_cap=cap)
        theirs = whole_loss(x_BTD, weight_VD, targets_BT, cap)
    assert ours.dtype == torch.float32
    assert abs(ours - truth) <= 1.5 * abs(theirs - truth) + 1e-3 * truth
    exact, torchs = gradients(truth, x_BTD, weight_VD), gradients(theirs, x_BTD, weight_VD)
    for mine, its, true in zip(gradients(ours, x_BTD, weight_VD), torchs, exact, strict=True):
        assert mine.dtype == true.dtype
        assert (mine - true).norm() <= 1.5 * (its - true).norm()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("cap", [None, 5.0])
def test_targets_that_do_not_count(cap: float | None) -> None:
    x_BTD, weight_VD, targets_BT = inputs()
    targets_BT[1:, 4:] = IGNORED
    counted = targets_BT != IGNORED
    ours = next_token_loss(x_BTD, weight_VD, targets_BT, logit_soft_cap=cap)
    theirs = whole_loss(x_BTD[counted][None], weight_VD, targets_BT[counted][None], cap)
    torch.testing.assert_close(ours, theirs)
    found = gradients(ours, x_BTD, weight_VD)
    torch.testing.assert_close(found, gradients(theirs, x_BTD, weight_VD), atol=1e-5, rtol=1e-5)
    assert not found[0][~counted].any()


def test_a_batch_of_targets_that_do_not_count() -> None:
    x_BTD, weight_VD, targets_BT = inputs()
    total = next_token_loss(x_BTD, weight_VD, torch.full_like(targets_BT, IGNORED))
    assert total == 0
    assert not any(gradient.any() for gradient in gradients(total, x_BTD, weight_VD))


def test_in_float16_the_sum_over_a_chunk_does_not_overflow() -> None:
    """A chunk of 4,096 equal targets and large hidden states, whose unscaled gradient exceeds 65,504."""
    generator = torch.Generator().manual_seed(0)
    x_BTD = (20 + torch.randn(4, 1024, WIDTH, generator=generator)).requires_grad_()
    weight_VD = (0.01 * torch.randn(VOCABULARY, WIDTH, generator=generator)).requires_grad_()
    targets_BT = torch.zeros(4, 1024, dtype=torch.long)
    exact = gradients(whole_loss(x_BTD, weight_VD, targets_BT), x_BTD, weight_VD)
    assert exact[1].abs().max() * (1 / 0.37) > 65_504
    with torch.autocast("cpu", torch.float16):
        short = gradients(next_token_loss(x_BTD, weight_VD, targets_BT), x_BTD, weight_VD)
    for mine, true in zip(short, exact, strict=True):
        assert (mine - true).norm() < 2e-3 * true.norm()


@pytest.mark.usefixtures("chunks")
def test_hidden_states_in_bfloat16_give_gradients_in_their_own_types() -> None:
    x_BTD, weight_VD, targets_BT = inputs(scale=0.5)
    short_BTD = x_BTD.detach().bfloat16().requires_grad_()
    total = next_token_loss(short_BTD, weight_VD, targets_BT)
    grad_BTD, grad_VD = gradients(total, short_BTD, weight_VD)
    exact_BTD, exact_VD = gradients(whole_loss(x_BTD, weight_VD, targets_BT), x_BTD, weight_VD)
    assert (grad_BTD.dtype, grad_VD.dtype) == (torch.bfloat16, torch.float32)
    assert (grad_BTD - exact_BTD).norm() < 0.02 * exact_BTD.norm()
    assert (grad_VD - exact_VD).norm() < 0.02 * exact_VD.norm()


@pytest.mark.usefixtures("chunks")
def test_without_gradients_no_slope_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    x_BTD, weight_VD, targets_BT = inputs()
    theirs = whole_loss(x_BTD, weight_VD, targets_BT)
    monkeypatch.setattr(Tensor, "scatter_add", None)
    with torch.no_grad():
        ours = next_token_loss(x_BTD, weight_VD, targets_BT)
    torch.testing.assert_close(ours, theirs.detach())
    assert not ours.requires_grad


def test_a_tied_matrix_gathers_the_gradients_of_both_ends() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(n_layer=1, n_head=2, n_embd=WIDTH, context=TIME, vocab_size=VOCABULARY))
    ids_BT = torch.randint(VOCABULARY, (BATCH, TIME + 1))
    found: list[list[Tensor]] = []
    for fused in (True, False):
        model.zero_grad()
        if fused:
            next_token_loss(
                model.hidden_states(ids_BT[:, :-1]), model.head_weight_VD, ids_BT[:, 1:]
            ).backward()
        else:
            F.cross_entropy(
                model(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="sum"
            ).backward()
        found.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    assert len(found[0]) == len(list(model.parameters()))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_uniform_logits_cost_ln_v() -> None:
    x_BTD, weight_VD, targets_BT = inputs(scale=0.0)
    total = next_token_loss(x_BTD, weight_VD, targets_BT)
    assert total.item() == pytest.approx(BATCH * TIME * math.log(VOCABULARY))


def test_a_hopeless_guess_is_finite() -> None:
    x_BTD, weight_VD, targets_BT = inputs(scale=1e4)
    total = next_token_loss(x_BTD, weight_VD, targets_BT)
    assert all(gradient.isfinite().all() for gradient in [total, *gradients(total, x_BTD, weight_VD)])


def test_one_steps_descent_lowers_the_loss() -> None:
    x_BTD, weight_VD, targets_BT = inputs()
    weight = nn.Parameter(weight_VD.detach())
    before = next_token_loss(x_BTD, weight, targets_BT)
    before.backward()
    assert weight.grad is not None
    with torch.no_grad():
        weight -= 1e-3 * weight.grad
    assert next_token_loss(x_BTD, weight, targets_BT) < before
