"""A model whose passes compute in a number format."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from gptlab.machine.device import DTypeName, product_type
from gptlab.model.kernels import any_shape


def autocast(name: DTypeName | torch.dtype, device: torch.device) -> torch.autocast:
    """Return the autocast context for a number format; it does nothing for float32."""
    dtype = name if isinstance(name, torch.dtype) else product_type(name)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@contextmanager
def in_format(name: DTypeName | torch.dtype, device: torch.device) -> Generator[None]:
    """Let a model with float32 weights run in a number format, on texts of any length."""
    with autocast(name, device), any_shape():
        yield


def attention_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the format of attention where matrices are multiplied in `dtype`."""
    # On a CPU torch's attention of a single query takes several times as long in bfloat16 as in float32;
    # Apple's GPU computes it in float32 whatever it is given.
    return dtype if device.type == "cuda" else torch.float32


class InFormat:
    """A model whose passes compute in a number format; it has `hidden_states` and `head` where the model has them."""

    def __init__(
        self, model: Callable[[torch.Tensor], torch.Tensor], name: DTypeName, device: torch.device
    ) -> None:
        self._model, self._device = model, device
        self.name: DTypeName = name

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        with in_format(self.name, self._device):
            return self._model(ids)

    def __getattr__(self, part: str) -> Callable[..., torch.Tensor]:
        run = getattr(self._model, part)

        def runs(*inputs: torch.Tensor) -> torch.Tensor:
            with in_format(self.name, self._device):
                return run(*inputs)

        return runs
