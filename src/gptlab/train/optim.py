"""The optimizers by name, their rates, and their state under the names of the parameters."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptlab.errors import CheckpointError
from gptlab.train.adamw import AdamWConfig, adamw

PEAK = "peak"  # of a group: its highest rate


@dataclass(frozen=True)
class Kind:
    """A kind of optimizer: the keys of its [optim], and how it is built."""

    config: type[Any]
    """A dataclass whose `name` is the kind's, and whose `lr` is the peak rate of the matrices."""
    build: Callable[[nn.Module, Any], torch.optim.Optimizer]
    """Its groups hold every parameter once, each with its own peak as its rate; the matrices' comes first."""


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
    """Set the learning rates of the next update, each to a fraction of its group's peak; return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * fraction
    return optimizer.param_groups[0]["lr"]


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
