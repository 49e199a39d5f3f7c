"""The optimizers by name, their learning rates, and their state keyed by parameter name."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gptlab.errors import CheckpointError
from gptlab.model.roles import KindName, role
from gptlab.train.adamw import AdamWConfig, adamw
from gptlab.train.muon import MuonConfig, muon

PEAK = "peak"  # key of a group's peak rate
NUMBER_BYTES = 4  # parameters, gradients and running means are float32
MEANS = "means"  # key of how many running means it keeps of each parameter


@dataclass(frozen=True)
class Kind:
    """A kind of optimizer: its keys in [optim], and the function that builds it."""

    config: type[Any]
    """A dataclass whose `name` is the kind's, and whose `lr` is the peak rate of the matrices."""
    build: Callable[[nn.Module, Any], torch.optim.Optimizer]
    """Its groups hold every parameter once and have their peak as their rate; that of the matrices comes first."""
    means: Callable[[KindName], int] = lambda kind: 2
    """How many tensors of a parameter's size it keeps, by the kind of the parameter's role."""


OPTIMIZERS = {
    "adamw": Kind(AdamWConfig, adamw),
    "muon": Kind(MuonConfig, muon, lambda kind: 1 if kind == "matrix" else 2),
}

if TYPE_CHECKING:
    OptimConfig = AdamWConfig | MuonConfig
else:
    OptimConfig = reduce(or_, (kind.config for kind in OPTIMIZERS.values()))


def build_optimizer(model: nn.Module, config: Any) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe's [optim] describes over a model's parameters."""
    kind = OPTIMIZERS[config.name]
    optimizer = kind.build(model, config)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        group[PEAK] = group["lr"]
        group[MEANS] = kind.means(role(names[group["params"][0]]).kind)
    return optimizer


def state_bytes(config: Any, counts: Mapping[KindName, int]) -> int:
    """Return the bytes of the state that an optimizer will keep of a model.

    Args:
        config: the recipe's [optim].
        counts: the model's parameters, by the kind of their role.
    """
    means = OPTIMIZERS[config.name].means
    return NUMBER_BYTES * sum(means(kind) * count for kind, count in counts.items())


def peaks(config: Any) -> dict[str, float]:
    """Return every peak rate in [optim], by its key."""
    return {key: value for key, value in asdict(config).items() if key == "lr" or key.endswith("_lr")}


def at_rate(config: Any, lr: float) -> dict[str, float]:
    """Return the peak rates of an [optim] whose `lr` is another, and all others in proportion."""
    return {key: peak * (lr / config.lr) for key, peak in peaks(config).items()} | {"lr": lr}


def set_rate(optimizer: torch.optim.Optimizer, fraction: float) -> float:
    """Set every group's learning rate to a fraction of its peak; return that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group[PEAK] * fraction
    return optimizer.param_groups[0]["lr"]


def state_bytes_to_come(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that the first update will allocate."""
    groups = optimizer.param_groups
    coming = ((p, group[MEANS]) for group in groups for p in group["params"] if p not in optimizer.state)
    return sum(means * p.numel() * p.element_size() for p, means in coming)


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
    names = {parameter: name for name, parameter in parameters.items()}
    for group in optimizer.param_groups if tensors else ():
        kinds: dict[str, torch.dtype] | None = None
        for parameter in group["params"]:
            name = names[parameter]
            state = {
                key.removeprefix(f"{name}/"): value
                for key, value in tensors.items()
                if key.startswith(f"{name}/")
            }
            shapes = [value.shape for value in state.values() if value.ndim]
            found = {quantity: value.dtype for quantity, value in state.items()}
            kinds = kinds if kinds is not None else found
            if found != kinds or shapes != [parameter.shape] * group[MEANS]:
                raise CheckpointError(
                    f"optimizer.safetensors does not fit {name}; it is another model's or another optimizer's "
                    "checkpoint: keep optim.name, or take only the weights with --train.init-from"
                )
            optimizer.state[parameter] = {
                quantity: value.to(parameter.device) if value.ndim or parameter.is_cuda else value.clone()
                for quantity, value in state.items()
            }
