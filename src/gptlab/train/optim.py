"""The optimizer, and its state under the names of the parameters."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from gptlab.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Adam with decoupled weight decay.

    Source: Loshchilov and Hutter (2019), https://arxiv.org/abs/1711.05101, algorithm 2.
    """

    name: Literal["adamw"] = "adamw"
    """The optimizer; see train/optim.py."""
    lr: float = 6e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the running means of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the mean square."""
    weight_decay: float = 0.1
    """Pull of the matrices towards zero, times the learning rate; gains and biases are not decayed."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr = {self.lr}: must be above 0, and finite")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: each must lie in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay = {self.weight_decay}: must be at least 0")


def adamw(groups: list[dict[str, Any]], config: AdamWConfig) -> torch.optim.Optimizer:
    """Build torch's own AdamW, in its fused form."""
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], AdamWConfig], torch.optim.Optimizer]] = {"adamw": adamw}


def build_optimizer(model: nn.Module, config: AdamWConfig) -> torch.optim.Optimizer:
    """Build the optimizer over a model's parameters: matrices are decayed, vectors are not."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[config.name](groups, config)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of the next update."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def state_bytes_to_come(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that the first update will ask for: two running means of every parameter."""
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return sum(2 * p.numel() * p.element_size() for p in parameters if p not in optimizer.state)


def optimizer_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors as `{parameter}/{quantity}`."""
    return {
        f"{name}/{quantity}": value
        for name, parameter in model.named_parameters()
        for quantity, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Put saved tensors back; those of other parameters, other shapes or other quantities are refused."""
    parameters = dict(model.named_parameters())
    unknown = _first(name for name in tensors if name.partition("/")[0] not in parameters)
    if unknown is not None:
        raise CheckpointError(
            f"optimizer.safetensors holds {unknown}, which the model has not; it is another model's checkpoint"
        )
    kinds = {key.partition("/")[2]: value.dtype for key, value in tensors.items()}
    for name, parameter in parameters.items():
        state = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(name + "/")}
        shapes = {value.shape for value in state.values() if value.ndim}
        if {quantity: value.dtype for quantity, value in state.items()} != kinds or not shapes <= {
            parameter.shape
        }:
            raise CheckpointError(
                f"optimizer.safetensors does not hold what it should for {name}; it is another model's checkpoint"
            )
        if state:
            optimizer.state[parameter] = {
                quantity: value.to(parameter.device) if value.ndim or parameter.is_cuda else value.clone()
                for quantity, value in state.items()
            }


def _first(names: Iterable[str]) -> str | None:
    return next(iter(names), None)


if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]
