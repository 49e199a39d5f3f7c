"""Formats with RoPE and LayerNorm: Starcoder2, StableLM for gated MLPs, Persimmon for normalised queries."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gptlab.formats.huggingface.classes.format import (
    GATED,
    UNGATED,
    UNSHARED,
    Constant,
    Format,
    Piece,
    fused,
    repeat_kv_heads,
    repeated,
    share_kv_heads,
)
from gptlab.formats.huggingface.classes.gpt2 import GPT2
from gptlab.model.gpt import ModelConfig


class Starcoder2(Format):
    """BigCode's Starcoder2: GPT-2's parts with RoPE and grouped heads."""

    model_type = "starcoder2"
    holds: ClassVar = {**GPT2.holds, "position": ["rope", "none"]}
    norm_eps, activations, bias_keys = "norm_epsilon", UNGATED, ("use_bias",)
    fixed: ClassVar = {"sliding_window": None}
    free: ClassVar = {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0}
    mlp_names: ClassVar = {"up": "c_fc", "down": "c_proj"}


class StableLM(Format):
    """Stability's StableLM 2: a gated MLP and, if asked, a norm for each head; no bias in most linear layers."""

    model_type = "stablelm"
    holds: ClassVar = {
        "norm": ["layernorm"],
        "norm_order": ["pre"],
        "position": ["rope", "none"],
        "mlp": list(GATED),
        "bias": [False],
        "logit_soft_cap": [None],
    }
    numbers: ClassVar = {**Format.numbers, "qk_norm": "qk_layernorm"}
    norm_eps, activations = "layer_norm_eps", GATED
    fixed: ClassVar = {"use_qkv_bias": False, "use_parallel_residual": False}
    free: ClassVar = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
    rope: ClassVar = {"partial_rotary_factor": 1.0}
    qk_norms = ("q_layernorm", "k_layernorm")

    def qk_norm(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        # Ours has one gain for all heads.
        heads = c.n_head if ours.endswith("q_norm") else c.kv_heads
        yield repeated([f"{theirs}.norms.{head}.weight" for head in range(heads)], f"{ours}.weight")


class Persimmon(Format):
    """Adept's Persimmon: Starcoder2 with normalised queries and keys, and with GPT-2's biases and heads."""

    model_type = "persimmon"
    holds: ClassVar = {**Starcoder2.holds, "qk_norm": [True]}
    numbers: ClassVar = UNSHARED
    norm_eps, activations = "layer_norm_eps", UNGATED
    fixed: ClassVar = {"qk_layernorm": True}
    free: ClassVar = {"attention_dropout": 0.0, "hidden_dropout": 0.0}
    rope: ClassVar = {"partial_rotary_factor": 1.0}
    biased = True
    out = "dense"
    mlp_names: ClassVar = {"up": "dense_h_to_4h", "down": "dense_4h_to_h"}
    qk_norms, final_norm = ("q_layernorm", "k_layernorm"), "model.final_layernorm"

    def qk_norm(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        # Ours never has a bias there.
        weight, *_ = super().qk_norm(theirs, ours, c)
        yield weight
        yield Constant(f"{theirs}.bias", (c.head_dim,))

    def qkv(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        # The rows have the order (head, q or k or v, channel).
        def split(tensor: Tensor) -> list[Tensor]:
            return [torch.stack(repeat_kv_heads(tensor, c), 1).flatten(0, 2)]

        def join(parts: Sequence[Tensor]) -> Tensor:
            return share_kv_heads(parts[0].unflatten(0, (c.n_head, 3, c.head_dim)).unbind(1), c)

        return fused(f"{theirs}query_key_value", ours, c, split, join)
