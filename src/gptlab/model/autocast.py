"""A model whose passes compute in a number format.

Axes: B batch, T time, N chosen tokens, D what the head reads, V vocabulary.
"""

from collections.abc import Generator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gptlab.machine.device import DTypeName, operand_dtype
from gptlab.model.causal_lm import CausalLM
from gptlab.model.kernels import any_shape


def autocast(name: DTypeName | torch.dtype, device: torch.device) -> torch.autocast:
    """Return the autocast context for a number format; it does nothing for float32."""
    dtype = name if isinstance(name, torch.dtype) else operand_dtype(name)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def inference_autocast(name: DTypeName | torch.dtype, device: torch.device) -> Generator[None]:
    """Let a model with float32 weights run in a number format, on texts of any length."""
    with autocast(name, device), any_shape():
        yield


def attention_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the format of attention where matrices are multiplied in `dtype`."""
    # On a CPU torch's attention of a single query takes several times as long in bfloat16 as in float32;
    # Apple's GPU computes it in float32 whatever it is given.
    return dtype if device.type == "cuda" else torch.float32


class AutocastModel:
    """A model whose passes compute in a number format."""

    def __init__(self, model: CausalLM, dtype: DTypeName, device: torch.device) -> None:
        self._model, self._device = model, device
        self.dtype: DTypeName = dtype
        self.reads_trees = model.reads_trees

    def hidden_states(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        with inference_autocast(self.dtype, self._device):
            return self._model.hidden_states(ids_BT)

    def hidden_states_at(
        self,
        ids_BT: Int[Tensor, "B T"],
        token_indices_N: Int[Tensor, " N"],
        positions_BT: Int[Tensor, "B T"] | None = None,
        visible_BTT: Bool[Tensor, "B T T"] | None = None,
    ) -> Float[Tensor, "1 N D"]:
        with inference_autocast(self.dtype, self._device):
            return self._model.hidden_states_at(ids_BT, token_indices_N, positions_BT, visible_BTT)

    def head(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        with inference_autocast(self.dtype, self._device):
            return self._model.head(x_BTD)
