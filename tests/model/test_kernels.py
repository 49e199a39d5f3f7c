"""The kernel of attention: a fused one wherever possible, and never one that plans for every length."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from gptlab.model import kernels
from gptlab.model.autocast import AutocastModel, inference_autocast
from gptlab.model.causal_lm import LogitsOnly

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FORMATS = [torch.float32, torch.bfloat16, torch.float16]


class Operators(TorchDispatchMode):
    """Records the names of torch's operators as they are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def heads(device, dtype, groups):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 64, 32, device=device, dtype=dtype) for n in (4, groups, groups))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def a_mask(device):
    return torch.ones(64, 64, dtype=torch.bool, device=device).tril().expand(2, 1, 64, 64)


def a_bias(device, dtype):
    bias = torch.linspace(-3, 3, 4 * 64 * 64, device=device).view(1, 4, 64, 64)
    return bias.masked_fill(~a_mask(device)[:1], -torch.inf).to(dtype)


def by_hand(q, k, v, bias=None):
    """Causal attention, head by head, in float64."""
    q, k, v = (part.detach().double().cpu() for part in (q, k, v))
    group = q.shape[1] // k.shape[1]
    rows = []
    for head in range(q.shape[1]):
        scores = q[:, head] @ k[:, head // group].mT / q.shape[-1] ** 0.5
        scores = scores if bias is None else scores + bias[0, head].double().cpu()
        scores.masked_fill_(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
        rows.append(scores.softmax(-1) @ v[:, head // group])
    return torch.stack(rows, 1)


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("mask", ["causal", "masked", "biased"])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_attention_is_fused_whatever_the_heads(device, dtype, mask, groups):
    q, k, v = heads(device, dtype, groups)
    bias = a_bias(device, dtype) if mask == "biased" else None
    with Operators() as called:
        y = kernels.attend(q, k, v, a_mask(device) if mask == "masked" else bias, causal=mask == "causal")
        y.sum().backward()
    attention = {name for name in called.names if "attention" in name}
    assert attention
    assert not any("math" in name for name in attention), attention
    assert "aten::_softmax" not in called.names
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(y.double().cpu(), by_hand(q, k, v, bias), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("mask", ["causal", "masked", "biased"])
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
def test_attention_written_out_is_attention(dtype, mask):
    q, k, v = heads("cpu", dtype, 4)
    bias = a_bias("cpu", dtype) if mask == "biased" else None
    with torch.autocast("cpu", torch.bfloat16):  # which must not round the scores
        y = kernels.by_formula(q, k, v, a_mask("cpu") if mask == "masked" else bias, causal=mask == "causal")
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(y.double(), by_hand(q, k, v, bias), atol=tolerance, rtol=tolerance)


def test_a_query_that_sees_nothing_is_finite_when_written_out():
    q, k, v = heads("cpu", torch.float32, 4)
    mask = a_mask("cpu").clone()
    mask[:, :, 3] = False
    y = kernels.by_formula(q, k, v, mask, causal=False)
    assert y.isfinite().all()
    others = [row for row in range(64) if row != 3]
    torch.testing.assert_close(y[:, :, others].double(), by_hand(q, k, v)[:, :, others], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chosen", ["flash", "math", None])
def test_heads_are_copied_only_where_no_fused_kernel_shares_them(monkeypatch, chosen):
    asked, whole = [], F.scaled_dot_product_attention

    def noted(q, k, v, **options):
        asked.append((k.shape[1], options["enable_gqa"]))
        return whole(q, k, v, **options)

    monkeypatch.setattr(kernels, "choose", lambda *what: chosen)
    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    q, k, v = heads("cpu", torch.float32, 2)
    y = kernels.attend(q, k, v, None, causal=True)
    assert asked == [(2, True) if chosen == "flash" else (4, False)]
    torch.testing.assert_close(y.double(), by_hand(q, k, v), atol=1e-5, rtol=1e-5)
    kernels.attend(q, q, q, None, causal=True)
    assert asked[1] == (4, False)


def test_autocasts_format_is_what_counts(monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "choose", lambda *what: asked.append(what[1:]) or "math")
    q, k, v = heads("cpu", torch.float32, 2)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        kernels.attend(q, k, v, None, causal=True)
    assert asked == [(torch.bfloat16, 32, False, True, False)]


def test_the_kernel_that_torch_takes_is_told():
    cpu = torch.device("cpu")
    what = (cpu, torch.float32, 64, False, False, True)
    assert kernels.choose(*what) == "flash"
    with kernels.only("math"):
        assert kernels.choose(*what) == "math"
    with kernels.only("cudnn"):
        assert kernels.choose(*what) is None
    with kernels.only("auto"):
        assert kernels.choose(*what) == "flash"


def test_reading_leaves_cudnn_out_and_training_does_not():
    seen = []

    class Model(LogitsOnly):
        def __call__(self, ids):
            seen.append(torch.backends.cuda.cudnn_sdp_enabled())
            return torch.zeros(*ids.shape, 5)

    cpu, ids = torch.device("cpu"), torch.zeros(1, 2, dtype=torch.int64)
    AutocastModel(Model(), "float32", cpu).hidden_states(ids)
    AutocastModel(Model(), "bfloat16", cpu).hidden_states_at(ids, torch.tensor([1]))
    with inference_autocast(torch.bfloat16, cpu):
        Model()(ids)
    assert seen == [False, False, False]
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with kernels.only("cudnn"):
        assert torch.backends.cuda.cudnn_sdp_enabled()
