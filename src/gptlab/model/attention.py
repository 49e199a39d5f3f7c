"""Causal self-attention with any number of key/value heads, and its key/value cache.

Axes: B batch, T time of the queries, S time of the keys, D width, H query heads, G key/value heads, K head
dimension.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gptlab.model.kernels import attend, compute_dtype
from gptlab.model.norm import NORMS
from gptlab.model.position import Position


class LayerCache:
    """The keys and values of one layer, for as many tokens of each row as it has room for.

    A token's key and value lie next to each other, as they are written together and read one after the other. They
    may be stored in a narrower format than attention computes in: reading them costs more than converting them.
    """

    def __init__(self, cells_BGS2K: Tensor) -> None:
        self._cells_BGS2K = cells_BGS2K
        self.length = 0

    def append(
        self, k_BGTK: Float[Tensor, "B G T K"], v_BGTK: Float[Tensor, "B G T K"]
    ) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Append keys and values, and return all stored so far, in the format of the new ones.

        Raises:
            ValueError: the cache is full; past its end torch would drop a token without an error.
        """
        start, self.length = self.length, self.length + k_BGTK.shape[2]
        room = self._cells_BGS2K.shape[2]
        if self.length > room:
            raise ValueError(
                f"{self.length} tokens do not fit a cache with room for {room}; ask new_cache for more"
            )
        self._cells_BGS2K[:, :, start : self.length, 0] = k_BGTK
        self._cells_BGS2K[:, :, start : self.length, 1] = v_BGTK
        return self.read(k_BGTK.dtype)

    def read(self, dtype: torch.dtype) -> tuple[Float[Tensor, "B G S K"], Float[Tensor, "B G S K"]]:
        """Return the stored keys and values in a number format."""
        keys_BGSK, values_BGSK = self._cells_BGS2K[:, :, : self.length].to(dtype).unbind(3)
        return keys_BGSK, values_BGSK


@dataclass(frozen=True)
class Layout:
    """Each token's position and the tokens it sees, in rows that are not plain texts."""

    positions_BT: Int[Tensor, "B T"]
    visible_BTT: Bool[Tensor, "B T T"]
    """True where the token of the second axis sees the one of the third."""


@dataclass(frozen=True)
class BlockInputs:
    """What a block is given besides the activations; the default is whole texts, read from their start."""

    cache: LayerCache | None = None
    """Keys and values of the tokens before these; None where they start the text."""
    layout: Layout | None = None
    """Positions and mask of rows that are not plain texts."""
    token_indices: Int[Tensor, " N"] | None = None
    """The tokens to return, as indices into the flattened rows; None means all."""
    score_bias: Float[Tensor, "rows H T S"] | None = None
    """What is added to the scores, -inf where a query does not see a key; None is nothing, and the usual mask."""

    def select(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "rows tokens D"]:
        """Return all tokens, or the chosen ones as one row."""
        return x_BTD if self.token_indices is None else x_BTD.flatten(0, 1)[None, self.token_indices]


WHOLE_TEXT = BlockInputs()


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v for every head, under a causal mask.

    Several query heads may share a key/value head: multi-head, grouped (a divisor of the query heads) or
    multi-query (one).

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, sec. 3.2; Ainslie et al. (2023),
    https://arxiv.org/abs/2305.13245 for groups; Dehghani et al. (2023), https://arxiv.org/abs/2302.05442,
    sec. 2 for the normalised queries and keys.
    """

    def __init__(
        self,
        n_embd: int,
        n_head: int,
        n_kv_head: int,
        *,
        position: Position,
        bias: bool,
        qk_norm: bool,
        norm: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = n_head, n_kv_head, n_embd // n_head
        # The model owns its one position encoding; a tuple keeps it out of this module's parameters.
        self._position = (position,)
        self.qkv_rows = tuple(heads * self.head_dim for heads in (n_head, n_kv_head, n_kv_head))
        self.qkv = nn.Linear(n_embd, sum(self.qkv_rows), bias=bias)
        self.q_norm = NORMS[norm](self.head_dim, eps=norm_eps, bias=False) if qk_norm else nn.Identity()
        self.k_norm = NORMS[norm](self.head_dim, eps=norm_eps, bias=False) if qk_norm else nn.Identity()
        self.out = nn.Linear(n_embd, n_embd, bias=bias)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], inputs: BlockInputs = WHOLE_TEXT
    ) -> Float[Tensor, "B T D"]:
        heads_BHTK = self.qkv(x_BTD).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        q_BHTK, k_BGSK, v_BGSK = heads_BHTK.split((self.n_head, self.n_kv_head, self.n_kv_head), dim=1)

        (position,), cache, layout = self._position, inputs.cache, inputs.layout
        start = cache.length if cache is not None else 0
        positions = layout.positions_BT if layout is not None else start
        q_BHTK = position.rotate(self.q_norm(q_BHTK), positions)
        k_BGSK = position.rotate(self.k_norm(k_BGSK), positions)
        if cache is not None:
            k_BGSK, v_BGSK = cache.append(k_BGSK, v_BGSK)

        mask = inputs.score_bias if inputs.score_bias is not None else _mask(layout, start, q_BHTK)
        y_BHTK = attend(q_BHTK, k_BGSK, v_BGSK, mask, causal=mask is None and start == 0)
        return self.out(y_BHTK.transpose(1, 2).flatten(2))


def _mask(layout: Layout | None, start: int, q_BHTK: Tensor) -> Tensor | None:
    # torch's causal flag aligns the first query with the first key, which is wrong after a cache; a single query
    # sees every key and needs no mask.
    n_query = q_BHTK.shape[2]
    if layout is None and (start == 0 or n_query == 1):
        return None
    return _visible(layout, n_query, start + n_query, q_BHTK.device)


def _visible(layout: Layout | None, n_query: int, n_key: int, device: torch.device) -> Tensor:
    if layout is not None:
        return layout.visible_BTT[:, None]
    return torch.ones(n_query, n_key, dtype=torch.bool, device=device).tril(n_key - n_query)


def masked(
    bias: Float[Tensor, "rows H T S"] | None, layout: Layout | None = None
) -> Float[Tensor, "rows H T S"] | None:
    """Return a position encoding's bias with -inf where a query does not see a key; None stays None."""
    if bias is None:
        return None
    n_query, n_key = bias.shape[-2:]
    visible = _visible(layout, n_query, n_key, bias.device)
    # In attention's own format: autocast would convert it again in every block.
    return bias.masked_fill(~visible, -torch.inf).to(compute_dtype(bias))
