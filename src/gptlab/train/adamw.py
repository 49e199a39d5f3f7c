"""Adam with decoupled weight decay: torch's own, in its fused form.

Source: Loshchilov and Hutter (2019), https://arxiv.org/abs/1711.05101, algorithm 2.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from gptlab.model.roles import role
from gptlab.train.parallel import Parts


@dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    """The optimizer; see train/optim.py."""
    lr: float = 6e-4
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of the running means of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of the mean squared gradient."""
    weight_decay: float = 0.1
    """Pull of the matrices towards zero, scaled by the learning rate; gains and biases are not decayed."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr = {self.lr}: must be above 0 and finite")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {self.betas}: each must lie in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay = {self.weight_decay}: must be at least 0")


def adamw(model: nn.Module, parts: Parts, config: AdamWConfig) -> torch.optim.Optimizer:
    """Build AdamW over parts of a model's parameters."""
    groups: list[dict[str, Any]] = [
        {
            "params": [part for name, part in parts.items() if role(name).decayed is decayed],
            "weight_decay": decay,
        }
        for decayed, decay in ((True, config.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
