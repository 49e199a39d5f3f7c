"""How a token knows its position.

A position encoding has two hooks, which do nothing by default: `embed` changes the embeddings before the first
block, and `rotate` changes every block's queries and keys. `start` is the position of a row's first token, or a tensor
with the position of every token.
Axes: B batch, T time, D width, H heads, K head dimension.
"""

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Start = int | Int[Tensor, "B T"]


class Position(nn.Module):
    """The hooks of a position encoding, which do nothing."""

    head_dim_multiple = 1

    def __init__(self, context: int, n_embd: int, head_dim: int, *, theta: float) -> None:
        super().__init__()

    def embed(self, x_BTD: Float[Tensor, "B T D"], start: Start) -> Float[Tensor, "B T D"]:
        """Add the encoding to the embeddings of tokens at positions from `start` on."""
        return x_BTD

    def rotate(self, x_BHTK: Float[Tensor, "B H T K"], start: Start) -> Float[Tensor, "B H T K"]:
        """Rotate the queries or keys of tokens at positions from `start` on."""
        return x_BHTK


class NoPosition(Position):
    """No encoding: only the causal mask gives the order.

    Source: Kazemnejad et al. (2023), https://arxiv.org/abs/2305.19466.
    """


class Learned(Position):
    """A learned vector for every position, as in GPT-2.

    Source: Radford et al. (2018), Improving language understanding by generative pre-training, sec. 3.1.
    """

    def __init__(self, context: int, n_embd: int, head_dim: int, *, theta: float) -> None:
        super().__init__(context, n_embd, head_dim, theta=theta)
        self.weight = nn.Parameter(torch.empty(context, n_embd))

    def embed(self, x_BTD: Float[Tensor, "B T D"], start: Start) -> Float[Tensor, "B T D"]:
        return x_BTD + _rows(self.weight, start, x_BTD.shape[1])


class RoPE(Position):
    """Rotate each pair of a head's channels by an angle proportional to the position.

    Source: Su et al. (2021), https://arxiv.org/abs/2104.09864, eq. 34. Channel i is paired with channel
    i + K/2, as in transformers' Llama, and not with its neighbour, as in the paper: to import weights of the
    other convention, permute the rows of the query and key matrices.
    """

    head_dim_multiple = 2
    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(self, context: int, n_embd: int, head_dim: int, *, theta: float) -> None:
        super().__init__(context, n_embd, head_dim, theta=theta)
        for name in ("cos_TK", "sin_TK"):
            self.register_buffer(name, torch.empty(context, head_dim), persistent=False)
        if not self.cos_TK.is_meta:  # as in a model that is only counted
            self._fill(context, head_dim, theta)

    def _fill(self, context: int, head_dim: int, theta: float) -> None:
        frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle = torch.outer(torch.arange(context, dtype=torch.float32), frequency)
        self.cos_TK.copy_(torch.cat((angle.cos(), angle.cos()), -1))
        self.sin_TK.copy_(torch.cat((-angle.sin(), angle.sin()), -1))

    def rotate(self, x_BHTK: Float[Tensor, "B H T K"], start: Start) -> Float[Tensor, "B H T K"]:
        # All heads share the angles.
        cos, sin = (
            _rows(table, start, x_BHTK.shape[2]).unsqueeze(-3) for table in (self.cos_TK, self.sin_TK)
        )
        # Computed in float32: in bfloat16 neighbouring late positions would share an angle.
        return (x_BHTK * cos + _swap_halves(x_BHTK) * sin).to(x_BHTK.dtype)


def _rows(table: Tensor, start: Start, length: int) -> Tensor:
    return table[start : start + length] if isinstance(start, int) else table[start]


def _swap_halves(x: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return torch.cat((high, low), -1)


POSITIONS = {"none": NoPosition, "learned": Learned, "rope": RoPE}

if TYPE_CHECKING:
    PositionName = str
else:
    PositionName = Literal[tuple(POSITIONS)]
