"""The network on a page: embeddings, a stack of blocks, a head.

Source: Radford et al. (2019), Language models are unsupervised multitask learners, sec. 2.3, and the papers
that each part names.
Axes: B batch, T time, D width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gptlab.model.attention import WHOLE_TEXT, Attention, BlockInputs, LayerCache, Layout, masked
from gptlab.model.mlp import MLPS, MLPName
from gptlab.model.norm import NORMS, NormName
from gptlab.model.position import POSITIONS, Position, PositionName, TokenPositions
from gptlab.model.roles import role

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"n_layer": 4, "n_head": 4, "n_embd": 128, "context": 128},
    "gpt2-124m": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024},
    "gpt2-350m": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "context": 1024},
    "gpt2-774m": {"n_layer": 36, "n_head": 20, "n_embd": 1280, "context": 1024},
    "gpt2-1558m": {"n_layer": 48, "n_head": 25, "n_embd": 1600, "context": 1024},
}

# Upper bounds of layers and of every other number: beyond any use (Wang et al. 2022, https://arxiv.org/abs/2203.00555,
# trained 1,000 layers), and counting the parameters of such a model still takes only seconds.
MOST_LAYERS, MOST = 2**10, 2**24


class Block(nn.Module):
    """Attention and an MLP, each added to its input, with a norm before each, as in GPT-2.

    Source: Radford et al. (2019), sec. 2.3; Xiong et al. (2020), https://arxiv.org/abs/2002.04745.
    """

    final_norm = True

    def __init__(self, config: "ModelConfig", position: Position) -> None:
        super().__init__()
        c, norm = config, NORMS[config.norm]
        self.norm1 = norm(c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.attention = Attention(
            c.n_embd,
            c.n_head,
            c.kv_heads,
            position=position,
            bias=c.bias,
            qk_norm=c.qk_norm,
            norm=c.norm,
            norm_eps=c.norm_eps,
        )
        self.norm2 = norm(c.n_embd, eps=c.norm_eps, bias=c.bias)
        self.mlp = MLPS[c.mlp](c.n_embd, c.mlp_width, bias=c.bias)

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], inputs: BlockInputs = WHOLE_TEXT
    ) -> Float[Tensor, "rows tokens D"]:
        """Return all tokens, or those that the inputs ask for."""
        x_BTD = inputs.select(x_BTD + self.attention(self.norm1(x_BTD), inputs))
        return x_BTD + self.mlp(self.norm2(x_BTD))


class PostNormBlock(Block):
    """The same parts with a norm after each sum, so that the stack needs no final norm.

    Source: Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, sec. 3.1; GPT-1.
    """

    final_norm = False

    def forward(
        self, x_BTD: Float[Tensor, "B T D"], inputs: BlockInputs = WHOLE_TEXT
    ) -> Float[Tensor, "rows tokens D"]:
        x_BTD = inputs.select(self.norm1(x_BTD + self.attention(x_BTD, inputs)))
        return self.norm2(x_BTD + self.mlp(x_BTD))


RunBlock = Callable[[nn.Module, Tensor, BlockInputs], Tensor]


def run_block(block: nn.Module, x_BTD: Tensor, inputs: BlockInputs) -> Tensor:
    """Run a block."""
    return block(x_BTD, inputs)


def recomputed(block: nn.Module, x_BTD: Tensor, inputs: BlockInputs) -> Tensor:
    """Run a block, and run it again in the backward pass instead of keeping its activations.

    Source: Chen et al. (2016), https://arxiv.org/abs/1604.06174.
    """
    return checkpoint(block, x_BTD, inputs, use_reentrant=False)


NORM_ORDERS = {"pre": Block, "post": PostNormBlock}

if TYPE_CHECKING:
    NormOrderName = str
else:
    NormOrderName = Literal[tuple(NORM_ORDERS)]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network; the defaults are GPT-2 small."""

    n_layer: int = 12
    """Number of blocks."""
    n_head: int = 12
    """Query heads of a block; a divisor of the width."""
    n_kv_head: int | None = None
    """Key/value heads of a block, a divisor of the query heads; None means one for each query head."""
    n_embd: int = 768
    """Width: channels of the residual stream."""
    n_hidden: int | None = None
    """Hidden width of the MLP; None means 4 widths, or for swiglu 8/3 widths rounded up to a multiple of 64."""
    context: int = 1024
    """Longest sequence, in tokens."""
    vocab_size: int = 50257
    """Entries of the vocabulary; when a recipe leaves it out, the prepared data's tokenizer sets it."""
    norm: NormName = "layernorm"
    """Normalisation; see model/norm.py."""
    norm_order: NormOrderName = "pre"
    """Whether the norm comes before attention and MLP (GPT-2) or after each is added (GPT-1)."""
    norm_eps: float = 1e-5
    """Added to the variance before its square root is taken."""
    position: PositionName = "learned"
    """Position encoding; see model/position.py."""
    rope_theta: float = 10_000.0
    """Base of RoPE's wavelengths; other position encodings ignore it."""
    mlp: MLPName = "gelu"
    """Feed-forward layer; see model/mlp.py."""
    bias: bool = True
    """Whether linear layers and layernorms have a bias."""
    tie_embeddings: bool = True
    """Whether the head is the transposed token embedding."""
    embed_norm: bool = False
    """Whether the embeddings are normalised before the first block."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalised with the model's norm."""
    logit_soft_cap: float | None = None
    """Bound of the logits c in c * tanh(logits / c), in nats; None means no bound."""
    residual_init: Literal["small", "zero"] = "small"
    """First values of the matrices that write to the residual stream: small, as GPT-2's, or zero."""

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "context", "vocab_size"):
            value, most = getattr(self, name), MOST_LAYERS if name == "n_layer" else MOST
            if value is not None and not 1 <= value <= most:
                raise ValueError(f"{name} = {value}: must lie between 1 and {most:,}")
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_head = {self.n_head} does not divide n_embd = {self.n_embd}; "
                f"{_nearest_divisor(self.n_embd, self.n_head)} does"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(
                f"n_kv_head = {self.n_kv_head} does not divide n_head = {self.n_head}; "
                f"{_nearest_divisor(self.n_head, self.kv_heads)} does"
            )
        multiple = POSITIONS[self.position].head_dim_multiple if self.position in POSITIONS else 1
        if self.head_dim % multiple:
            raise ValueError(
                f"position = {self.position} needs a head dimension that is a multiple of {multiple}, and "
                f"n_embd / n_head = {self.head_dim}; choose other heads or width"
            )
        for name in ("norm_eps", "rope_theta", "logit_soft_cap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value}: must be above 0")

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.n_embd // self.n_head

    @property
    def kv_heads(self) -> int:
        """Key/value heads, by default as many as query heads."""
        return self.n_kv_head if self.n_kv_head is not None else self.n_head

    @property
    def mlp_width(self) -> int:
        """Hidden width of the MLP, by default that of its kind."""
        return self.n_hidden if self.n_hidden is not None else MLPS[self.mlp].default_hidden(self.n_embd)


def _nearest_divisor(whole: int, wanted: int) -> int:
    divisors = (d for d in range(1, whole + 1) if whole % d == 0)
    return min(divisors, key=lambda divisor: abs(divisor - wanted))


class GPT(nn.Module):
    """A decoder-only transformer over token ids."""

    reads_trees = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        block = NORM_ORDERS[config.norm_order]
        self.embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.position = POSITIONS[config.position](
            config.context, config.n_embd, config.head_dim, theta=config.rope_theta
        )
        norm = partial(NORMS[config.norm], config.n_embd, eps=config.norm_eps, bias=config.bias)
        self.embed_norm = norm() if config.embed_norm else nn.Identity()
        self.blocks = nn.ModuleList(block(config, self.position) for _ in range(config.n_layer))
        self.norm = norm() if block.final_norm else nn.Identity()
        # A tied head has no parameter of its own, so a checkpoint holds the shared matrix once.
        self.unembed = (
            None if config.tie_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        )
        self.cast_residual = False
        """Whether the residual stream takes the format of the products instead of float32."""
        init_weights(self)

    def forward(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """Return the logits of the token after each prefix."""
        return self.head(self.hidden_states(ids_BT))

    def hidden_states(
        self,
        ids_BT: Int[Tensor, "B T"],
        cache: Sequence[LayerCache] | None = None,
        run: RunBlock = run_block,
    ) -> Float[Tensor, "B T D"]:
        """Return the hidden states that the head reads; with a cache, the ids continue its tokens.

        Args:
            ids_BT: the tokens.
            cache: one for each block.
            run: how to run a block: as it is, recomputed or compiled.

        Raises:
            ValueError: the text exceeds the context.
        """
        start = cache[0].length if cache is not None else 0
        if start + ids_BT.shape[1] > self.config.context:
            raise ValueError(
                f"{start + ids_BT.shape[1]} tokens are more than context = {self.config.context}; "
                "give the model only the last of them"
            )
        return self._through_blocks(ids_BT, start, cache, run=run)

    def hidden_states_at(
        self,
        ids_BT: Int[Tensor, "B T"],
        token_indices_N: Int[Tensor, " N"],
        positions_BT: Int[Tensor, "B T"] | None = None,
        visible_BTT: Bool[Tensor, "B T T"] | None = None,
    ) -> Float[Tensor, "1 N D"]:
        """Return hidden states of chosen tokens, of plain texts or of rows in which several texts share a beginning.

        Args:
            ids_BT: the tokens.
            token_indices_N: the chosen tokens, as indices into the flattened rows; the last block computes only these.
            positions_BT: each token's position in its text, below the context; None means its place in the row.
            visible_BTT: true where the token of the second axis sees the one of the third; every token must see itself.
        """
        if positions_BT is None or visible_BTT is None:
            return self._through_blocks(ids_BT, 0, None, None, token_indices_N)
        layout = Layout(positions_BT, visible_BTT)
        return self._through_blocks(ids_BT, positions_BT, None, layout, token_indices_N)

    def _through_blocks(
        self,
        ids_BT: Tensor,
        positions: TokenPositions,
        cache: Sequence[LayerCache] | None,
        layout: Layout | None = None,
        token_indices: Tensor | None = None,
        run: RunBlock = run_block,
    ) -> Tensor:
        x = self.embed_norm(self.position.embed(self.embed(ids_BT), positions))
        if self.cast_residual and torch.is_autocast_enabled(x.device.type):
            # Autocast leaves embeddings in float32, and sums with them stay float32.
            x = x.to(torch.get_autocast_dtype(x.device.type))
        score_bias = masked(self.position.bias(positions, ids_BT.shape[1]), layout)
        for block, own in zip(self.blocks, cache or [None] * len(self.blocks), strict=True):
            chosen = token_indices if block is self.blocks[-1] else None
            x = run(block, x, BlockInputs(own, layout, chosen, score_bias))
        return self.norm(x)

    def head(self, x_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B T V"]:
        """Turn hidden states into logits, in nats."""
        logits_BTV = F.linear(x_BTD, self.embed.weight) if self.unembed is None else self.unembed(x_BTD)
        return soft_cap(logits_BTV, self.config.logit_soft_cap)

    @property
    def head_weight_VD(self) -> Tensor:
        """The matrix that turns hidden states into logits, tied or not."""
        return self.embed.weight if self.unembed is None else self.unembed.weight

    def new_cache(self, batch: int, tokens: int, dtype: torch.dtype | None = None) -> list[LayerCache]:
        """Return an empty key/value cache with room for `tokens` tokens in each of `batch` rows."""
        shape = (batch, self.config.kv_heads, tokens, 2, self.config.head_dim)
        like = self.embed.weight
        make = partial(torch.empty, shape, dtype=dtype or like.dtype, device=like.device)
        return [LayerCache(make()) for _ in range(self.config.n_layer)]


def soft_cap(logits: Float[Tensor, "*lead V"], cap: float | None) -> Float[Tensor, "*lead V"]:
    """Squash logits into (-cap, cap).

    Source: Gemma team (2024), Gemma 2, https://arxiv.org/abs/2408.00118, sec. 2.
    """
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def init_weights(model: GPT) -> None:
    """Initialise every parameter by its role (roles.py), from torch's global random state.

    Matrices that write to the residual stream, those of attention and of every MLP, start smaller, so that its variance
    does not grow with depth, or at zero, so that every block begins as the identity.

    Source: Radford et al. (2019), sec. 2.3; GPT-2's `model.py` for the spread; Zhang et al. (2019), Fixup,
    https://arxiv.org/abs/1901.09321, for zero.
    """
    spread = 0.02
    small = spread / (2 * model.config.n_layer) ** 0.5 if model.config.residual_init == "small" else 0.0
    for name, parameter in model.named_parameters():
        match role(name).init:
            case "normal":
                nn.init.normal_(parameter, std=spread)
            case "residual":
                nn.init.normal_(parameter, std=small)
            case "ones":
                nn.init.ones_(parameter)
            case "zeros":
                nn.init.zeros_(parameter)
