"""A copy of a model that multiplies faster, for inference only.

Its matrices are cast once instead of at every product, and on a CPU they are stored in the order in which oneDNN's
kernels read them. That helps most where few rows are multiplied, as in sampling token by token, whose time goes
into reading the matrices. torch's own compiler also packs them when it freezes a model.
Axes: O outputs, I inputs.
"""

import copy
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gptlab.model.gpt import GPT
from gptlab.model.mlp import ACTIVATIONS, Activated
from gptlab.model.unset import ShapesOnly

M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Linear):
    """A linear layer, with or without an activation, that multiplies by a copy of its matrix in its own format.

    Inputs and outputs keep their format, and the parameters are those of the original layer.
    """

    def __init__(
        self, weight_OI: Tensor, bias_O: Tensor | None, dtype: torch.dtype, activation: str | None = None
    ) -> None:
        outputs, inputs = weight_OI.shape
        with ShapesOnly():
            super().__init__(inputs, outputs, bias=bias_O is not None)
        self.weight, self.bias = cast(nn.Parameter, weight_OI), cast(nn.Parameter, bias_O)
        self.dtype, self.activation = dtype, activation
        self._weight = weight_OI.detach().to(dtype)
        self._bias = bias_O.detach().to(dtype) if bias_O is not None else None
        self._packs = _packs(weight_OI.device, dtype)
        if self._packs:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous())

    def forward(self, input: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead O"]:  # noqa: A002 (as nn.Linear calls it)
        x, fused = input.to(self.dtype), self._packs and self.activation in ONEDNN
        if self._packs:
            inside = ONEDNN[self.activation if fused else None]
            y = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, *inside)
        else:
            y = F.linear(x, self._weight, self._bias)
        if self.activation is not None and not fused:
            y = ACTIVATIONS[self.activation](y)
        return y.to(input.dtype)


def packed(model: M, dtype: torch.dtype = torch.float32) -> M:
    """Return a copy of a float32 model that multiplies in a number format, or the model itself if no copy is faster.

    The copy shares the model's parameters and holds a second version of the matrices. It does not see later changes
    of the matrices and cannot be trained.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _gains(layer, dtype)]
    if not layers:
        return model
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for layer in layers:
        activation = layer.activation if isinstance(layer, Activated | PackedLinear) else None
        memo[id(layer)] = PackedLinear(layer.weight, layer.bias, dtype, activation)
    twin = copy.deepcopy(model, memo)
    if isinstance(twin, GPT) and twin.unembed is None:
        # In the copy, a tied head becomes a layer of its own.
        twin.unembed = PackedLinear(twin.head_weight_VD, None, dtype)
    return twin


def _gains(layer: nn.Linear, dtype: torch.dtype) -> bool:
    if isinstance(layer, PackedLinear):
        return layer.dtype != dtype
    if type(layer) not in (nn.Linear, Activated) or layer.weight.dtype != torch.float32:
        return False
    return dtype != torch.float32 or _packs(layer.weight.device, dtype)


def _packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether torch has packed products on this processor; they are not a public API."""
    mkldnn = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    available = device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not available or not all(hasattr(mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and mkldnn._is_mkldnn_bf16_supported())


# How oneDNN names an activation: its name, its numbers and its variant. One that is not here follows the product.
ONEDNN: dict[str | None, tuple[str, list[float], str]] = {
    None: ("none", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
    "relu": ("relu", [], ""),
    "silu": ("swish", [], ""),
}
