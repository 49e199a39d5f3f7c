"""A copy of a model for reading one token at a time on a CPU, with its weights packed.

A step of generation multiplies every matrix by a handful of rows, so that its time is the time to read the
weights from memory. oneDNN reads them faster in an order of its own, into which they are put once.
Axes: O outputs, I inputs.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .gpt import GPT, soft_cap


class PackedLinear(nn.Module):
    """A linear layer whose matrix lies as oneDNN's kernels read it; it cannot be trained."""

    def __init__(self, weight_OI: Float[Tensor, "O I"], bias_O: Float[Tensor, " O"] | None) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach().contiguous())
        self._bias = bias_O.detach() if bias_O is not None else None

    def forward(self, x: Float[Tensor, "*lead I"]) -> Float[Tensor, "*lead O"]:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")


class PackedGPT:
    """What generation needs of a GPT: `hidden`, `head` and `new_cache`, in one number format.

    Args:
        model: on a CPU; it stays as it is, and later changes to it are not seen.
        dtype: of the copy's weights and products.
    """

    def __init__(self, model: GPT, dtype: torch.dtype) -> None:
        self.config = model.config
        with torch.inference_mode():
            self._model = copy.deepcopy(model).to(dtype).eval()
            self._head = PackedLinear(self._model.head_weight_VD, None)
            for module in list(self._model.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.Linear):
                        setattr(module, name, PackedLinear(child.weight, child.bias))
        self.hidden = self._model.hidden
        self.new_cache = self._model.new_cache

    def head(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """Turn hidden states into logits, in nats."""
        return soft_cap(self._head(x_BTD), self.config.logit_soft_cap)


def packs(model: GPT, dtype: torch.dtype) -> bool:
    """Say whether this torch can pack the model's weights."""
    on_cpu = model.embed.weight.device.type == "cpu"
    formats = {torch.float32: True, torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported}
    known = on_cpu and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    supported = formats.get(dtype, False)
    return bool(known and (supported() if callable(supported) else supported))
