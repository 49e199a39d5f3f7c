import pytest
import torch
from torch import Tensor, nn

from gptlab.model.norm import NORMS

WIDTH = 24


def randomised(name: str, *, bias: bool) -> nn.Module:
    torch.manual_seed(1)
    norm = NORMS[name](WIDTH, eps=1e-3, bias=bias)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


@pytest.fixture
def x_BTD() -> Tensor:
    # With an offset, so that a norm that forgets to subtract the mean fails.
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.3


@pytest.mark.parametrize("bias", [True, False])
def test_layernorm_is_torchs(x_BTD: Tensor, bias: bool) -> None:
    ours = randomised("layernorm", bias=bias)
    theirs = nn.LayerNorm(WIDTH, eps=1e-3, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x_BTD), theirs(x_BTD))


@pytest.mark.parametrize("bias", [True, False])
def test_rmsnorm_is_torchs(x_BTD: Tensor, bias: bool) -> None:
    ours = randomised("rmsnorm", bias=bias)
    theirs = nn.RMSNorm(WIDTH, eps=1e-3)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(x_BTD), theirs(x_BTD))


def test_rmsnorm_without_gain_learns_nothing_and_has_unit_rms(x_BTD: Tensor) -> None:
    ours = randomised("rmsnorm_no_gain", bias=True)
    assert not list(ours.parameters())
    torch.testing.assert_close(ours(x_BTD), x_BTD / (x_BTD.square().mean(-1, keepdim=True) + 1e-3).sqrt())


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_keeps_the_activations_type(name: str, x_BTD: Tensor) -> None:
    norm = NORMS[name](WIDTH, eps=1e-3, bias=True).to(torch.bfloat16)
    assert norm(x_BTD.bfloat16()).dtype == torch.bfloat16


def test_rmsnorm_brings_its_gain_to_the_activations_type(x_BTD: Tensor) -> None:
    assert randomised("rmsnorm", bias=False)(x_BTD.bfloat16()).dtype == torch.bfloat16
