import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptlab.model.mlp import MLPS

WIDTH, HIDDEN = 16, 40


@pytest.fixture
def x_BTD() -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(0))


def built(name: str, *, bias: bool) -> nn.Module:
    torch.manual_seed(1)
    return MLPS[name](WIDTH, HIDDEN, bias=bias)


def product(layer: nn.Linear, x_BTD: Tensor) -> Tensor:
    """Multiply by a layer's matrix, without its activation."""
    return F.linear(x_BTD, layer.weight, layer.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_gelu_is_gpt2s(x_BTD: Tensor, bias: bool) -> None:
    mlp = built("gelu", bias=bias)
    hidden = product(mlp.up, x_BTD)
    cubic = (2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)
    torch.testing.assert_close(mlp(x_BTD), mlp.down(0.5 * hidden * (1 + torch.tanh(cubic))))


def test_gelu_erf_weighs_by_the_normal_distribution(x_BTD: Tensor) -> None:
    mlp = built("gelu_erf", bias=True)
    hidden = product(mlp.up, x_BTD)
    below = torch.distributions.Normal(0.0, 1.0).cdf(hidden)
    torch.testing.assert_close(mlp(x_BTD), mlp.down(hidden * below))


@pytest.mark.parametrize("bias", [True, False])
def test_relu2_squares_what_is_above_zero(x_BTD: Tensor, bias: bool) -> None:
    mlp = built("relu2", bias=bias)
    hidden = product(mlp.up, x_BTD)
    torch.testing.assert_close(mlp(x_BTD), mlp.down(torch.where(hidden > 0, hidden * hidden, 0.0)))


@pytest.mark.parametrize("bias", [True, False])
def test_swiglu_gates_with_silu(x_BTD: Tensor, bias: bool) -> None:
    mlp = built("swiglu", bias=bias)
    gate, up = product(mlp.gate, x_BTD), product(mlp.up, x_BTD)
    torch.testing.assert_close(mlp(x_BTD), mlp.down(gate * torch.sigmoid(gate) * up))


@pytest.mark.parametrize(
    ("name", "width", "hidden"),
    [
        ("gelu", 768, 3072),
        ("relu2", 768, 3072),
        ("swiglu", 768, 2048),
        ("swiglu", 1024, 2752),
        ("swiglu", 96, 256),
    ],
)
def test_the_default_hidden_width(name: str, width: int, hidden: int) -> None:
    assert MLPS[name].default_hidden(width) == hidden


@pytest.mark.parametrize("name", MLPS)
def test_bias_is_a_switch_of_every_matrix(name: str) -> None:
    biases = {part for part, _ in built(name, bias=True).named_parameters() if part.endswith("bias")}
    assert biases == {f"{part}.bias" for part, _ in built(name, bias=True).named_children()}
    assert all(part.endswith("weight") for part, _ in built(name, bias=False).named_parameters())
