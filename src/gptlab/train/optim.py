"""The optimizers by name, their learning rates, and their state keyed by parameter name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptlab.errors import CheckpointError
from gptlab.train.adamw import AdamWConfig, adamw

PEAK = "peak"  # key of a group's peak rate


@dataclass(frozen=True)
class Kind:
    """A kind of optimizer: its keys in [optim], and the function that builds it."""

    config: type[Any]
    """A dataclass whose `name` is the kind's, and whose `lr` is the peak rate of the matrices."""
    build: Callable[[nn.Module, Any], torch.optim.Optimizer]
    """Its groups hold every parameter once and have their peak as their rate; that of the matrices comes first."""


OPTIMIZERS = {"adamw": Kind(AdamWConfig, adamw)}

if TYPE_CHECKING:
    OptimConfig = AdamWConfig
else:
    OptimConfig = reduce(or_, (kind.config for kind in OPTIMIZERS.values()))


def build_optimizer(model: nn.Module, config: Any) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe's [optim] describes over a model's parameters."""
    optimizer = OPTIMIZERS[config.name].build(model, config)
    for group in optimizer.param_groups:
        group[PEAK] = group["lr"]
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, fraction: float) -> float:
    """Set every group's learning rate to a fraction of its peak; return that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * fraction
    return optimizer.param_groups[0]["lr"]


def state_bytes_to_come(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that the first update will allocate: two running means of every parameter."""
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
    """Restore saved tensors; refuse other parameters, shapes or quantities."""
    parameters = dict(model.named_parameters())
    unknown = next((name for name in tensors if name.partition("/")[0] not in parameters), None)
    if unknown is not None:
        raise CheckpointError(
            f"optimizer.safetensors holds {unknown}, which this model lacks; it is another model's checkpoint"
        )
    kinds = {key.partition("/")[2]: value.dtype for key, value in tensors.items()}
    for name, parameter in parameters.items():
        state = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(name + "/")}
        shapes = {value.shape for value in state.values() if value.ndim}
        if {quantity: value.dtype for quantity, value in state.items()} != kinds or not shapes <= {
            parameter.shape
        }:
            raise CheckpointError(
                f"optimizer.safetensors does not fit {name}; it is another model's checkpoint"
            )
        if state:
            optimizer.state[parameter] = {
                quantity: value.to(parameter.device) if value.ndim or parameter.is_cuda else value.clone()
                for quantity, value in state.items()
            }
