"""An exponential moving average (EMA) of the weights.

Where there is one, it is the model: what is measured, saved, sampled and exported.

A checkpoint's model.safetensors holds the EMA, so that whoever reads it has the model that was measured; the weights
that are trained on are part of optimizer.safetensors.

Source: Polyak and Juditsky (1992), https://doi.org/10.1137/0330046; as an EMA Kaddour (2022),
https://arxiv.org/abs/2209.14981.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from gptlab.runs.tensor_file import Stored

TRAINED = "/trained"  # ends the name of a weight among the optimizer's tensors


class EMA:
    """The exponential moving average of a model's parameters.

    Args:
        model: the model that is trained.
        decay: the average's share of itself at each update; less at first, or the initial weights would stay for long.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        self.weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        """By the parameter's name."""

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after so many updates, this one included."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for name, parameter in self._model.named_parameters():
            self.weights[name].lerp_(parameter, share)

    @contextmanager
    def swapped_in(self) -> Generator[None]:
        """Let the model have the averaged weights inside this context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._model.named_parameters():
            averaged = self.weights[name].clone()
            self.weights[name].copy_(parameter)
            parameter.copy_(averaged)


def trained(model: Mapping[str, Stored], optimizer: dict[str, Stored]) -> dict[str, Stored]:
    """Return the weights to train on from a checkpoint's two files, and remove them from the optimizer's tensors."""
    own = {name: optimizer.pop(name) for name in [*optimizer] if name.endswith(TRAINED)}
    return {**model, **{name.removesuffix(TRAINED): weight for name, weight in own.items()}}
