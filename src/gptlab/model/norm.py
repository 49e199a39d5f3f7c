"""Normalisation of a vector of activations.

Axes: `...D`, any leading axes and the width that is normalised.
"""

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class RMSNormNoGain(nn.Module):
    """x / rms(x), without parameters.

    Source: nanochat and OLMo train with gain-free norms; the rms is Zhang and Sennrich (2019), eq. 4.
    """

    def __init__(self, width: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return F.rms_norm(x, (self.width,), eps=self.eps)


class RMSNorm(nn.Module):
    """x / rms(x) * gain.

    Source: Zhang and Sennrich (2019), https://arxiv.org/abs/1910.07467, eq. 4. It never has a bias, whatever
    the model's switch says.
    """

    def __init__(self, width: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        # The gain takes the activations' type, since a mixed pair falls off the fused kernel.
        return F.rms_norm(x, (self.width,), self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.Module):
    """(x - mean(x)) / std(x) * gain + bias.

    Source: Ba, Kiros and Hinton (2016), https://arxiv.org/abs/1607.06450, eq. 4.
    """

    def __init__(self, width: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.width, self.eps = width, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "*lead width"]) -> Float[Tensor, "*lead width"]:
        return F.layer_norm(x, (self.width,), self.weight, self.bias, self.eps)


NORMS = {"rmsnorm_no_gain": RMSNormNoGain, "rmsnorm": RMSNorm, "layernorm": LayerNorm}

# pyright cannot evaluate a computed Literal; pydantic checks the table's names at run time.
if TYPE_CHECKING:
    NormName = str
else:
    NormName = Literal[tuple(NORMS)]
