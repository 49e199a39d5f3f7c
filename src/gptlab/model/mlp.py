"""The feed-forward half of a block.

Axes: B batch, T time, D width, F hidden width, I inputs, O outputs.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Activated(nn.Linear):
    """A linear layer and its activation in one module, as some kernels compute both at once."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, activation: str) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.activation = activation

    def forward(self, input: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead O"]:  # noqa: A002 (as nn.Linear calls it)
        return ACTIVATIONS[self.activation](super().forward(input))


class GELU(nn.Module):
    """gelu(x W_up) W_down, with GPT-2's tanh approximation.

    Source: Hendrycks and Gimpel (2016), https://arxiv.org/abs/1606.08415, sec. 2; GPT-2's `model.py`.
    """

    activation = "gelu_tanh"

    def __init__(self, n_embd: int, n_hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.up = Activated(n_embd, n_hidden, bias=bias, activation=self.activation)
        self.down = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(self.up(x_BTD))

    @staticmethod
    def default_hidden(n_embd: int) -> int:
        return 4 * n_embd


class ErfGELU(GELU):
    """The exact GELU of nanoGPT and GPT-NeoX; the approximation is up to 5e-4 away.

    Source: Hendrycks and Gimpel (2016), eq. 1.
    """

    activation = "gelu"


class ReLU2(GELU):
    """relu(x W_up)^2 W_down.

    Source: So et al. (2021), Primer, https://arxiv.org/abs/2109.08668, sec. 3.
    """

    activation = "relu"

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(self.up(x_BTD).square())


class SwiGLU(nn.Module):
    """(silu(x W_gate) * x W_up) W_down.

    Source: Shazeer (2020), https://arxiv.org/abs/2002.05202, eq. 6; two thirds of four widths
    match the parameters of a two-matrix MLP, and the multiple of 64 keeps matrix units full.
    """

    def __init__(self, n_embd: int, n_hidden: int, *, bias: bool) -> None:
        super().__init__()
        self.gate = Activated(n_embd, n_hidden, bias=bias, activation="silu")
        self.up = nn.Linear(n_embd, n_hidden, bias=bias)
        self.down = nn.Linear(n_hidden, n_embd, bias=bias)

    def forward(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(self.gate(x_BTD) * self.up(x_BTD))

    @staticmethod
    def default_hidden(n_embd: int) -> int:
        return -(-8 * n_embd // (3 * 64)) * 64


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
MLPS = {"gelu": GELU, "gelu_erf": ErfGELU, "relu2": ReLU2, "swiglu": SwiGLU}

if TYPE_CHECKING:
    MLPName = str
else:
    MLPName = Literal[tuple(MLPS)]
