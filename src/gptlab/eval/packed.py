"""Weights in the layout that the CPU's matrix products like best.

oneDNN multiplies by a matrix that it has rearranged once a fifth faster than torch does by rows, and almost
twice as fast by the head, whose vocabulary is long. The numbers are float32's. torch's own compiler does the
same when it freezes a model.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class PackedProducts(TorchFunctionMode):
    """While it is entered, products with the given weights are taken from rearranged copies."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        # The weights are kept too, since their identity is the key.
        self._packed = {
            id(weight): (weight, torch.ops.mkldnn._reorder_linear_weight(weight.detach()))
            for weight in weights
        }

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is not F.linear or kwargs or id(args[1]) not in self._packed:
            return func(*args, **(kwargs or {}))
        x, weight, *bias = args
        packed = self._packed[id(weight)][1]
        return torch.ops.mkldnn._linear_pointwise(x, packed, bias[0] if bias else None, "none", [], "")


def packed(model: nn.Module) -> AbstractContextManager[Any]:
    """Return a context in which a float32 model on a CPU multiplies faster; of another, one that does nothing.

    Its weights must not change meanwhile, and there must be room for them twice.
    """
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    tied_head: Tensor | None = getattr(model, "head_weight_VD", None)
    weights = {id(weight): weight for weight in (*layers, tied_head) if weight is not None}.values()
    fits = all(weight.device.type == "cpu" and weight.dtype == torch.float32 for weight in weights)
    if not fits or not torch.backends.mkldnn.is_available():
        return nullcontext()
    try:
        return PackedProducts(weights)
    except (AttributeError, RuntimeError):  # a build of torch without these products
        return nullcontext()
