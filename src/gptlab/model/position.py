"""How a token knows its position.

A position encoding has three hooks, which do nothing by default: `embed` changes the embeddings before the first
block, `rotate` changes every block's queries and keys, and `bias` adds to every block's attention scores. `positions`
is the position of a row's first token, or a tensor with the position of every token.
Axes: B batch, T time of the queries, S time of the keys, D width, H heads, K head dimension.
"""

from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

TokenPositions = int | Int[Tensor, "B T"]


class Position(nn.Module):
    """The hooks of a position encoding, which do nothing."""

    head_dim_multiple = 1

    def __init__(self, context: int, n_embd: int, head_dim: int, *, theta: float) -> None:
        super().__init__()

    def embed(self, x_BTD: Float[Tensor, "B T D"], positions: TokenPositions) -> Float[Tensor, "B T D"]:
        """Add the encoding to the embeddings of tokens at `positions`."""
        return x_BTD

    def rotate(self, x_BHTK: Float[Tensor, "B H T K"], positions: TokenPositions) -> Float[Tensor, "B H T K"]:
        """Rotate the queries or keys of tokens at `positions`."""
        return x_BHTK

    def bias(self, positions: TokenPositions, length: int) -> Float[Tensor, "rows H T S"] | None:
        """Return what is added to the attention scores of `length` tokens at `positions`, or None.

        Their keys are their own and, where `positions` is a number, those of all tokens before (`_queries_and_keys`).
        One row serves the whole batch. What a query does not see is masked afterwards.
        """
        return None


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

    def embed(self, x_BTD: Float[Tensor, "B T D"], positions: TokenPositions) -> Float[Tensor, "B T D"]:
        return x_BTD + _rows(self.weight, positions, x_BTD.shape[1])


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

    def rotate(self, x_BHTK: Float[Tensor, "B H T K"], positions: TokenPositions) -> Float[Tensor, "B H T K"]:
        # All heads share the angles.
        cos, sin = (
            _rows(table, positions, x_BHTK.shape[2]).unsqueeze(-3) for table in (self.cos_TK, self.sin_TK)
        )
        # Computed in float32: in bfloat16 neighbouring late positions would share an angle.
        return (x_BHTK * cos + _swap_halves(x_BHTK) * sin).to(x_BHTK.dtype)


class ALiBi(Position):
    """Lower each head's attention scores in proportion to the distance, by a slope of its own.

    torch takes a bias as a mask: n_head * T * S numbers, made once for all blocks. A mask does not tell torch that half
    of the scores are not needed, and no flash kernel on a GPU accepts one. On a CPU, attention in float32 took three
    times as long at a context of 1,024, and half as long again at 256.

    Source: Press et al. (2022), https://arxiv.org/abs/2108.12409, sec. 3; the authors' code for a number of heads that
    is no power of two.
    """

    slope_H: Tensor

    def __init__(self, context: int, n_embd: int, head_dim: int, *, theta: float) -> None:
        super().__init__(context, n_embd, head_dim, theta=theta)
        n_head = n_embd // head_dim
        self.register_buffer("slope_H", torch.empty(n_head), persistent=False)
        if not self.slope_H.is_meta:  # as in a model that is only counted
            self.slope_H.copy_(torch.tensor(_slopes(n_head)))

    def bias(self, positions: TokenPositions, length: int) -> Float[Tensor, "rows H T S"]:
        queries_BT, keys_BS = _queries_and_keys(positions, length, self.slope_H.device)
        distance_BTS = queries_BT[:, :, None] - keys_BS[:, None, :]
        return -self.slope_H[:, None, None] * distance_BTS[:, None]


def _slopes(n_head: int) -> list[float]:
    # For a power of two, 2^-8 and all its n-th powers in between; else those of the power of two below, and then
    # every other one of the power of two above.
    below = 1 << (n_head.bit_length() - 1)
    slopes = [2.0 ** (-8 * i / below) for i in range(1, below + 1)]
    return slopes + [2.0 ** (-4 * i / below) for i in range(1, 2 * (n_head - below), 2)]


def _queries_and_keys(positions: TokenPositions, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions of the queries and of the keys in each row, or in one for all rows."""
    if isinstance(positions, int):
        keys_1S = torch.arange(positions + length, device=device)[None]
        return keys_1S[:, positions:], keys_1S
    return positions, positions


def _rows(table: Tensor, positions: TokenPositions, length: int) -> Tensor:
    return table[positions : positions + length] if isinstance(positions, int) else table[positions]


def _swap_halves(x: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return torch.cat((high, low), -1)


POSITIONS = {"none": NoPosition, "learned": Learned, "rope": RoPE, "alibi": ALiBi}

if TYPE_CHECKING:
    PositionName = str
else:
    PositionName = Literal[tuple(POSITIONS)]
