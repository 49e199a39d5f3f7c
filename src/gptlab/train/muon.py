"""Momentum, orthogonalised, for the matrices of the blocks (Muon); AdamW for everything else.

Source: Jordan et al. (2024), https://kellerjordan.github.io/posts/muon/; at scale Liu et al. (2025),
https://arxiv.org/abs/2502.16982.
Axes: N matrices of one shape, R rows, C columns.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gptlab.machine.device import operand_dtype, supported_dtype
from gptlab.model.attention import Attention
from gptlab.model.roles import role
from gptlab.train.parallel import Parts

# Jordan et al.'s: singular values from 0.003 to 1 of the scaled matrix end between 0.68 and 1.14, in five rounds.
COEFFICIENTS = ((3.4445, -4.7750, 2.0315),) * 5
MOST_ELEMENTS = 2**26  # of matrices that are worked on together, which bounds their copies' memory


@dataclass(frozen=True, kw_only=True)
class MuonConfig:
    """Orthogonalised momentum for the blocks' matrices, and AdamW for the rest."""

    name: Literal["muon"] = "muon"
    """The optimizer; see train/optim.py."""
    lr: float = 0.02
    """Peak learning rate of the matrices: about the spectral norm of a step, whatever their width."""
    momentum: float = 0.95
    """Decay rate of the matrices' running mean of the gradient."""
    nesterov: bool = True
    """Whether a step looks ahead, mixing the gradient into its running mean once more."""
    weight_decay: float = 0.1
    """Pull of matrices, embeddings and head towards zero, scaled by their learning rates."""
    decay: Literal["decoupled", "cautious"] = "decoupled"
    """Which weights of the matrices decay: all, or only those that the step moves towards zero as well."""
    embedding_lr: float = 6e-3
    """Peak learning rate of the embeddings, by AdamW; a tied head is one of them."""
    head_lr: float = 6e-3
    """Peak learning rate of an untied head, by AdamW."""
    vector_lr: float = 6e-3
    """Peak learning rate of gains and biases, by AdamW."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's running means of the gradient and of its square."""
    eps: float = 1e-8
    """Added to the root of AdamW's mean squared gradient."""

    def __post_init__(self) -> None:
        for name in ("lr", "embedding_lr", "head_lr", "vector_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0 and finite")
        for name, values in (("momentum", (self.momentum,)), ("betas", self.betas)):
            if not all(0 <= value < 1 for value in values):
                raise ValueError(f"{name} = {getattr(self, name)}: must lie in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay = {self.weight_decay}: must be at least 0")


def muon(model: nn.Module, parts: Parts, config: MuonConfig) -> torch.optim.Optimizer:
    """Build Muon over parts of a model's parameters; those of matrices are whole."""
    rates = {"matrix": config.lr, "embedding": config.embedding_lr, "head": config.head_lr}
    groups: dict[str, dict[str, Any]] = {}
    for name, _ in model.named_parameters():
        kind, decayed = role(name).kind, role(name).decayed
        group = {
            "params": [],
            "lr": rates.get(kind, config.vector_lr),
            "weight_decay": config.weight_decay * decayed,
        }
        groups.setdefault(kind, group)["params"] += [parts[name]] if name in parts else []
    matrices = groups.pop("matrix")
    adamw = torch.optim.AdamW(list(groups.values()), betas=config.betas, eps=config.eps, fused=True)
    rows = _rows(model)
    return Muon(matrices, adamw, config, {parts[name]: rows[name] for name in parts.keys() & rows.keys()})


class Muon(torch.optim.Optimizer):
    """Updates matrices itself, and leaves other parameters to another optimizer.

    Args:
        matrices: the group of the matrices, with its learning rate and weight decay.
        rest: the optimizer of all other parameters; its groups and states become this one's too.
        config: momentum and kind of decay.
        rows: of a parameter that holds several matrices one below the other, the rows of each.
    """

    def __init__(
        self,
        matrices: dict[str, Any],
        rest: torch.optim.Optimizer,
        config: MuonConfig,
        rows: dict[Tensor, tuple[int, ...]],
    ) -> None:
        super().__init__([matrices, *rest.param_groups], {})
        rest.state = self.state
        self._rest, self._config, self._rows = rest, config, rows

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        assert closure is None, "the gradients are there already"
        group = self.param_groups[0]
        for stack in self._stacks(group["params"]):
            directions = orthogonalised(torch.stack([direction for _, direction in stack]))
            for (weight, _), direction in zip(stack, directions, strict=True):
                self._move(weight, direction.to(weight.dtype), group["lr"], group["weight_decay"])
        self._rest.step()

    def _stacks(self, parameters: list[Tensor]) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """Yield matrices of one shape with the mean gradients that are to be orthogonalised."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in parameters:
            if parameter.grad is None:
                continue
            rows = self._rows.get(parameter, len(parameter))
            for weight, mean in zip(parameter.split(rows), self._mean(parameter).split(rows), strict=True):
                alike[weight.shape].append((weight, mean))
        for shape, pairs in alike.items():
            most = max(1, MOST_ELEMENTS // shape.numel())
            for first in range(0, len(pairs), most):
                yield pairs[first : first + most]

    def _mean(self, parameter: Tensor) -> Tensor:
        """Update a parameter's mean gradient, and return what the step is made from."""
        gradient, momentum = parameter.grad, self._config.momentum
        assert gradient is not None
        if "momentum" not in self.state[parameter]:
            self.state[parameter]["momentum"] = torch.zeros_like(gradient)
        mean = self.state[parameter]["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum) if self._config.nesterov else mean

    def _move(self, weight: Tensor, direction: Tensor, lr: float, weight_decay: float) -> None:
        """Decay a matrix, and move it against a direction with singular values near one.

        The step's root mean square per input, and so its effect on the outputs, does not depend on the width; so the
        best rate carries over to other widths.

        Source: Yang et al. (2023), https://arxiv.org/abs/2310.17813, sec. 3, for the spectral norm of a step; Chen
        et al. (2025), https://arxiv.org/abs/2510.12402, for cautious decay.
        """
        if self._config.decay == "cautious":
            weight.sub_(weight * (weight * direction > 0), alpha=lr * weight_decay)
        else:
            weight.mul_(1 - lr * weight_decay)
        rows, columns = weight.shape
        weight.sub_(direction, alpha=lr * max(1, rows / columns) ** 0.5)


def orthogonalised(matrices_NRC: Float[Tensor, "N R C"]) -> Float[Tensor, "N R C"]:
    """Return nearly the nearest matrices with orthonormal rows or columns, whichever are fewer.

    The iteration multiplies in bfloat16 on a CUDA device that has it, and returns that format; elsewhere in float32.

    Source: Jordan et al. (2024), the Newton-Schulz iteration and its coefficients; Higham (2008), Functions of
    Matrices, sec. 8.3, for the polar factor.
    """
    device = matrices_NRC.device
    fast = device.type == "cuda" and supported_dtype(device) == "bfloat16"
    tall = matrices_NRC.shape[-2] > matrices_NRC.shape[-1]
    x = (matrices_NRC.mT if tall else matrices_NRC).to(operand_dtype("bfloat16" if fast else "float32"))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value is above one now
    for a, b, c in COEFFICIENTS:
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _rows(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return how queries, keys and values, which are matrices of their own, share one parameter."""
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, Attention))
    return {f"{name}.qkv.weight": layer.qkv_rows for name, layer in layers}
