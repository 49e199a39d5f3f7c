"""Formats with RoPE and RMSNorm: Llama and its relatives. A norm without gain gets a gain of one."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from gptlab.formats.huggingface.classes.format import (
    GATED,
    RMSNORMS,
    UNGATED,
    Constant,
    Format,
    Held,
    Piece,
    repeated,
    split_rows,
)
from gptlab.model.gpt import ModelConfig


class Llama(Format):
    """Meta's Llama: RoPE, RMSNorm, SwiGLU, grouped heads."""

    model_type = "llama"
    holds: ClassVar = {
        "norm": RMSNORMS,
        "norm_order": ["pre"],
        "position": ["rope"],
        "mlp": list(GATED),
        "qk_norm": [False],
        "logit_soft_cap": [None],
    }
    activations = GATED
    bias_keys = ("attention_bias", "mlp_bias")
    free: ClassVar = {"attention_dropout": 0.0}
    # Keys of nanotron, which made SmolLM.
    unread: ClassVar[Sequence[str]] = ("is_llama_config", "rope_interleaved")

    def config(self, c: ModelConfig) -> dict[str, Any]:
        return {**super().config(c), "head_dim": c.head_dim}


class SmolLM3(Llama):
    """Hugging Face's SmolLM3: Llama whose layers may do without positions, here all of them."""

    model_type = "smollm3"
    holds: ClassVar = {**Llama.holds, "position": ["none"]}
    fixed: ClassVar = {"use_sliding_window": False}
    unread = ("max_window_layers", "no_rope_layer_interval")  # about layers of other kinds

    def config(self, c: ModelConfig) -> dict[str, Any]:
        return {**super().config(c), "no_rope_layers": [0] * c.n_layer}


class Arcee(Llama):
    """Arcee's AFM: Llama with an MLP of two matrices."""

    model_type = "arcee"
    holds: ClassVar = {**Llama.holds, "position": ["rope", "none"], "mlp": ["relu2", "gelu", "gelu_erf"]}
    activations = UNGATED


class Qwen3(Llama):
    """Alibaba's Qwen3: Llama with normalised queries and keys, and no bias in the MLP."""

    model_type = "qwen3"
    holds: ClassVar = {**Llama.holds, "position": ["rope", "none"], "qk_norm": [True], "bias": [False]}
    bias_keys = ("attention_bias",)
    fixed: ClassVar = {"use_sliding_window": False}
    unread = ("max_window_layers",)  # about a sliding window that is off


class Apertus(Format):
    """The Swiss AI Initiative's Apertus: Qwen3 with an MLP of two matrices."""

    model_type = "apertus"
    holds: ClassVar = {**Qwen3.holds, "mlp": list(UNGATED)}
    activations = UNGATED
    bias_keys = ("attention_bias",)
    free: ClassVar = {"attention_dropout": 0.0}
    norms = ("attention_layernorm", "feedforward_layernorm")


class NanoChat(Format):
    """Karpathy's nanochat: norms without gains, also of the embeddings, and RoPE that turns the other way.

    Turned the other way, the second half of a head's channels changes sign; so it does in queries and keys alike.
    """

    model_type = "nanochat"
    holds: ClassVar = {
        "norm": ["rmsnorm_no_gain"],
        "norm_order": ["pre"],
        "position": ["rope", "none"],
        "mlp": ["relu2", "gelu", "gelu_erf"],
        "bias": [False],
        "embed_norm": [True],
        "qk_norm": [True],
    }
    numbers: ClassVar = {**Format.numbers, "logit_soft_cap": "final_logit_softcapping"}
    activations, bias_keys = UNGATED, ("attention_bias",)
    free: ClassVar = {"attention_dropout": 0.0}
    mlp_names: ClassVar = {"up": "fc1", "down": "fc2"}

    def norm(self, theirs: str, ours: str, c: ModelConfig, width: int | None = None) -> Iterator[Piece]:
        yield from ()

    def qkv(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        names = [f"{theirs}{name}.weight" for name in self.qkv_names]
        rows = [heads * c.head_dim for heads in (c.n_head, c.kv_heads, c.kv_heads)]

        def turned(parts: Sequence[Tensor]) -> list[Tensor]:
            q, k, v = parts
            return [*(torch.cat(_signs(part, c), 1).flatten(0, 1) for part in (q, k)), v]

        yield Held(
            tuple(names),
            f"{ours}.weight",
            lambda tensor: turned(split_rows(tensor, rows)),
            lambda parts: torch.cat(turned(parts)),
        )


def _signs(matrix: Tensor, c: ModelConfig) -> tuple[Tensor, Tensor]:
    """Return both halves of each head's rows, the second one negated."""
    first, second = matrix.unflatten(0, (-1, c.head_dim)).tensor_split([c.head_dim // 2], 1)
    return first, -second


class VaultGemma(Llama):
    """Google's VaultGemma: Llama with capped logits, and no bias in the MLP.

    It stores gains less one, and multiplies the embeddings by sqrt(n_embd): ours are divided by that, and if the head
    is tied, the last norm compensates. A squared ReLU is a gated ReLU with equal halves.
    """

    model_type = "vaultgemma"
    holds: ClassVar = {
        "norm": RMSNORMS,
        "norm_order": ["pre"],
        "position": ["rope", "none"],
        "mlp": ["swiglu", "relu2"],
        "qk_norm": [False],
        "bias": [False],
    }
    numbers: ClassVar = {**Format.numbers, "logit_soft_cap": "final_logit_softcapping"}
    activation, bias_keys = "hidden_activation", ("attention_bias",)
    activations: ClassVar = {**GATED, "relu2": ("relu",)}
    fixed: ClassVar = {"attn_logit_softcapping": None}
    exact = False
    norms = ("input_layernorm", "pre_feedforward_layernorm")

    def config(self, c: ModelConfig) -> dict[str, Any]:
        layers = ["full_attention"] * c.n_layer
        return {**super().config(c), "query_pre_attn_scalar": c.head_dim, "layer_types": layers}

    def norm(self, theirs: str, ours: str, c: ModelConfig, width: int | None = None) -> Iterator[Piece]:
        scale = c.n_embd**0.5 if c.tie_embeddings and ours == "norm" else 1.0
        if c.norm == "rmsnorm_no_gain":
            yield Constant(f"{theirs}.weight", (c.n_embd,), scale - 1)
        else:
            yield Held(
                (f"{theirs}.weight",),
                f"{ours}.weight",
                lambda gain: (gain * scale - 1,),
                lambda parts: (parts[0] + 1) / scale,
            )

    def pieces(self, c: ModelConfig) -> Iterator[Piece]:
        _, *others = super().pieces(c)
        scale = c.n_embd**0.5

        def divide(table: Tensor) -> tuple[Tensor]:
            return (table / scale,)

        yield Held((f"{self.embed}.weight",), "embed.weight", divide, lambda parts: parts[0] * scale)
        yield from others

    def mlp_pieces(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        if c.mlp == "relu2":
            halves = [f"{theirs}{name}.weight" for name in ("gate_proj", "up_proj")]
            yield repeated(halves, f"{ours}up.weight")
            yield from self.linear(f"{theirs}down_proj", f"{ours}down", c.n_embd, c)
        else:
            yield from super().mlp_pieces(theirs, ours, c)
