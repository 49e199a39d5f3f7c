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
from gptlab.runs.tensor_file import Stored
from gptlab.train.adamw import AdamWConfig, adamw
from gptlab.train.muon import MuonConfig, muon
from gptlab.train.parallel import FLOAT32_BYTES, Parts

PEAK = "peak"  # key of a group's peak rate
MOMENTS = "moments"  # key of how many running means of gradients it keeps of each parameter


@dataclass(frozen=True)
class OptimizerEntry:
    """An optimizer: its keys in [optim], and the function that builds it."""

    config: type[Any]
    """A dataclass whose `name` is the optimizer's, and whose `lr` is the peak rate of the matrices."""
    build: Callable[[nn.Module, Parts, Any], torch.optim.Optimizer]
    """Its groups hold every part once and have their peak as their rate; that of the matrices comes first."""
    moments: Callable[[KindName], int] = lambda kind: 2
    """How many tensors of a parameter's size it keeps, by the kind of the parameter's role."""
    unsplittable: frozenset[KindName] = frozenset()
    """Kinds of parameters that one process must update whole."""


OPTIMIZERS = {
    "adamw": OptimizerEntry(AdamWConfig, adamw),
    "muon": OptimizerEntry(
        MuonConfig, muon, lambda kind: 1 if kind == "matrix" else 2, frozenset({"matrix"})
    ),
}

if TYPE_CHECKING:
    OptimConfig = AdamWConfig | MuonConfig
else:
    OptimConfig = reduce(or_, (entry.config for entry in OPTIMIZERS.values()))


def build_optimizer(model: nn.Module, config: Any, parts: Parts | None = None) -> torch.optim.Optimizer:
    """Build the optimizer that a recipe's [optim] describes.

    Args:
        model: the model to train.
        config: the recipe's [optim].
        parts: the part of each parameter that this process updates, by name; None means all of the model's.
    """
    entry = OPTIMIZERS[config.name]
    parts = dict(model.named_parameters()) if parts is None else parts
    optimizer = entry.build(model, parts, config)
    names = {part: name for name, part in parts.items()}
    for group in optimizer.param_groups:
        group[PEAK] = group["lr"]
        # With many processes one may have no part of a group.
        group[MOMENTS] = max((entry.moments(role(names[part]).kind) for part in group["params"]), default=0)
    return optimizer


def state_bytes(config: Any, counts: Mapping[KindName, int]) -> int:
    """Return the bytes of the state that an optimizer will keep of a model."""
    moments = OPTIMIZERS[config.name].moments
    return FLOAT32_BYTES * sum(moments(kind) * count for kind, count in counts.items())


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
    coming = ((p, group[MOMENTS]) for group in groups for p in group["params"] if p not in optimizer.state)
    return sum(moments * p.numel() * p.element_size() for p, moments in coming)


def optimizer_state(optimizer: torch.optim.Optimizer, parts: Parts) -> dict[str, Tensor]:
    """Return the optimizer's tensors as `{parameter}/{quantity}`."""
    return {
        f"{name}/{quantity}": value
        for name, part in parts.items()
        for quantity, value in optimizer.state.get(part, {}).items()
    }


def check_optimizer_state(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    stored: Mapping[str, Stored],
    parts: Parts,
) -> None:
    """Refuse saved tensors of other parameters, shapes or quantities; `parts` is what this process updates."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    saved: dict[str, dict[str, Stored]] = {name: {} for name in shapes}
    for key, tensor in stored.items():
        name, _, quantity = key.partition("/")
        if name not in saved:
            raise CheckpointError(
                f"optimizer.safetensors holds {key}, which this model lacks; it is another model's checkpoint"
            )
        saved[name][quantity] = tensor
    moments = {part: group[MOMENTS] for group in optimizer.param_groups for part in group["params"]}
    dtypes: dict[int, dict[str, torch.dtype]] = {}
    for name, part in parts.items() if stored else ():
        wide = [tensor.shape for tensor in saved[name].values() if tensor.shape]
        found = {quantity: tensor.dtype for quantity, tensor in saved[name].items()}
        if found != dtypes.setdefault(moments[part], found) or wide != [shapes[name]] * moments[part]:
            raise CheckpointError(
                f"optimizer.safetensors does not fit {name}; it is another model's or another optimizer's "
                "checkpoint: keep optim.name, or take only the weights with --train.init-from"
            )


def load_optimizer_state(
    optimizer: torch.optim.Optimizer,
    stored: Mapping[str, Stored],
    parts: Parts,
    local_part: Callable[[str, Tensor], Tensor] = lambda name, full: full,
) -> None:
    """Restore saved tensors that fit; `local_part` returns this process's part of a full tensor, as Parallel's does."""
    for key, tensor in stored.items():
        name, _, quantity = key.partition("/")
        value = tensor.read()  # by all processes, as the first one may read for all
        part = parts.get(name)
        if part is not None:
            local = local_part(name, value) if value.ndim else value
            optimizer.state[part][quantity] = local.to(part.device, copy=True)
