"""Formats with a table of positions: GPT-2, and OPT for norms after the sum."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from gptlab.formats.huggingface.classes.format import (
    GELU_TANH,
    UNGATED,
    UNSHARED,
    Constant,
    Format,
    Held,
    Piece,
    fused,
    repeat_kv_heads,
    same,
    share_kv_heads,
    transposed,
)
from gptlab.model.gpt import ModelConfig


class GPT2(Format):
    """OpenAI's GPT-2: every bias, and a key/value head for every query head.

    A missing bias becomes zeros, missing positions a table of zeros, and shared key/value heads are repeated; none of
    these changes the function.
    """

    model_type = "gpt2"
    holds: ClassVar = {
        "norm": ["layernorm"],
        "norm_order": ["pre"],
        "position": ["learned", "none"],
        "mlp": list(UNGATED),
        "qk_norm": [False],
        "logit_soft_cap": [None],
    }
    numbers: ClassVar = {
        **UNSHARED,
        **{"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd"},
        **{"n_hidden": "n_inner", "context": "n_positions"},
    }
    norm_eps, activation = "layer_norm_epsilon", "activation_function"
    # Other readers of GPT-2 know GELU by this name.
    activations: ClassVar = {**UNGATED, "gelu": ("gelu_new", *GELU_TANH)}
    fixed: ClassVar = {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }
    free: ClassVar = {"embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0}
    unread = (
        "n_ctx",  # OpenAI's own; n_positions is the length
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        "summary_first_dropout",
    )
    rope = None
    biased = True

    prefix, layer, embed = "transformer.", "transformer.h.{}.", "transformer.wte"
    attention, out, mlp = "attn.", "c_proj", "mlp."
    mlp_names: ClassVar = {"up": "c_fc", "down": "c_proj"}
    norms, final_norm = ("ln_1", "ln_2"), "transformer.ln_f"

    def positions(self, c: ModelConfig) -> Iterator[Piece]:
        table = "transformer.wpe.weight"
        if c.position == "learned":
            yield same(table, "position.weight")
        else:
            yield Constant(table, (c.context, c.n_embd))

    def linear(self, theirs: str, ours: str, rows: int, c: ModelConfig) -> Iterator[Piece]:
        yield transposed(f"{theirs}.weight", f"{ours}.weight")
        yield same(f"{theirs}.bias", f"{ours}.bias") if c.bias else Constant(f"{theirs}.bias", (rows,))

    def qkv(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        def split(tensor: Tensor) -> list[Tensor]:
            return [torch.cat(repeat_kv_heads(tensor, c)).flatten(0, 1).t()]

        def join(parts: Sequence[Tensor]) -> Tensor:
            return share_kv_heads(parts[0].t().unflatten(0, (3, c.n_head, c.head_dim)).unbind(), c)

        return fused(f"{theirs}c_attn", ours, c, split, join)


class OPT(Format):
    """Meta's OPT in the form of its 350M model: each norm after the sum, and none at the end.

    Its table of positions starts with two rows that nothing reads. Biases and heads are as in GPT-2, except that
    linear layers may go without biases.
    """

    model_type = "opt"
    holds: ClassVar = {**GPT2.holds, "norm_order": ["post"], "norm_eps": [1e-5]}
    numbers: ClassVar = {**UNSHARED, "n_hidden": "ffn_dim"}
    norm_eps = None
    activation, activations = "activation_function", UNGATED
    bias_keys = ("enable_bias",)
    fixed: ClassVar = {"do_layer_norm_before": False, "layer_norm_elementwise_affine": True}
    free: ClassVar = {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}
    rope = None

    prefix, layer, embed = "model.", "model.decoder.layers.{}.", "model.decoder.embed_tokens"
    out, mlp = "out_proj", ""
    mlp_names: ClassVar = {"up": "fc1", "down": "fc2"}
    norms = ("self_attn_layer_norm", "final_layer_norm")

    def positions(self, c: ModelConfig) -> Iterator[Piece]:
        name, spare = "model.decoder.embed_positions.weight", 2
        if c.position == "none":
            yield Constant(name, (spare + c.context, c.n_embd))
        else:
            yield Held(
                (name,),
                "position.weight",
                lambda table: (torch.cat((table.new_zeros(spare, c.n_embd), table)),),
                lambda parts: parts[0][spare:],
            )

    def qkv(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        for kind in ("weight", "bias") if c.bias else ("weight",):
            yield Held(
                tuple(f"{theirs}{name}.{kind}" for name in self.qkv_names),
                f"{ours}.{kind}",
                lambda tensor: [part.flatten(0, 1) for part in repeat_kv_heads(tensor, c)],
                lambda parts: share_kv_heads([part.unflatten(0, (-1, c.head_dim)) for part in parts], c),
            )
