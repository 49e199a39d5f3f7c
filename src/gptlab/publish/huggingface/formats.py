"""Which Hugging Face class holds a model, and the model's weights in that class's names and layout."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gptlab.errors import ExportError
from gptlab.model.gpt import ModelConfig


class Format(Protocol):
    """A class of transformers that some of our models are equal to."""

    def refusals(self, config: ModelConfig) -> list[str]:
        """Return what the class needs otherwise, as `norm = layernorm (not rmsnorm)`; empty if it fits."""
        ...

    def config(self, config: ModelConfig) -> dict[str, object]:
        """Return the architecture's part of config.json."""
        ...

    def tensors(self, state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """Yield the class's names and tensors, made of our state dict."""
        ...


class GPT2:
    """OpenAI's GPT-2: it has every bias, and one key/value head for every query head.

    A missing bias is a zero and a shared key/value head is repeated, which leaves the function as it is.
    """

    def refusals(self, config: ModelConfig) -> list[str]:
        return [*_common(config), *_misfits(config, norm=["layernorm"], position=["learned"], mlp=["gelu"])]

    def config(self, config: ModelConfig) -> dict[str, object]:
        return {
            "model_type": "gpt2",
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_embd": config.n_embd,
            "n_inner": config.hidden,
            "n_positions": config.context,
            "layer_norm_epsilon": config.norm_eps,
            "activation_function": "gelu_new",
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }

    def tensors(self, state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        state = {
            name: _repeat_kv_heads(tensor, config) if ".qkv." in name else tensor
            for name, tensor in state.items()
        }

        def both(theirs: str, ours: str) -> Iterator[tuple[str, Tensor]]:
            weight = state[f"{ours}.weight"]
            bias = state.get(f"{ours}.bias")
            # GPT-2's linear layers keep their matrix as (inputs, outputs).
            yield f"{theirs}.weight", weight.T if weight.ndim == 2 else weight
            yield f"{theirs}.bias", bias if bias is not None else torch.zeros(len(weight))

        yield "transformer.wte.weight", state["embed.weight"]
        yield "transformer.wpe.weight", state["position.weight"]
        for layer in range(config.n_layer):
            theirs, ours = f"transformer.h.{layer}", f"blocks.{layer}"
            yield from both(f"{theirs}.ln_1", f"{ours}.norm1")
            yield from both(f"{theirs}.attn.c_attn", f"{ours}.attention.qkv")
            yield from both(f"{theirs}.attn.c_proj", f"{ours}.attention.out")
            yield from both(f"{theirs}.ln_2", f"{ours}.norm2")
            yield from both(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up")
            yield from both(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down")
        yield from both("transformer.ln_f", "norm")
        if not config.tie_embeddings:
            yield "lm_head.weight", state["unembed.weight"]


class Llama:
    """Meta's Llama: RoPE, RMSNorm, SwiGLU and grouped heads; a norm without gain has a gain of one."""

    def refusals(self, config: ModelConfig) -> list[str]:
        norms = ["rmsnorm", "rmsnorm_no_gain"]
        return [*_common(config), *_misfits(config, norm=norms, position=["rope"], mlp=["swiglu"])]

    def config(self, config: ModelConfig) -> dict[str, object]:
        return {
            "model_type": "llama",
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "hidden_size": config.n_embd,
            "intermediate_size": config.hidden,
            "hidden_act": "silu",
            "max_position_embeddings": config.context,
            "rms_norm_eps": config.norm_eps,
            "attention_bias": config.bias,
            "mlp_bias": config.bias,
            # transformers 4 reads the first, 5 either, and programs that read its configs one or the other.
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        }

    def tensors(self, state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        kinds = ("weight", "bias") if config.bias else ("weight",)

        def gain(ours: str) -> Tensor:
            weight = state.get(f"{ours}.weight")
            return weight if weight is not None else torch.ones(config.n_embd)

        yield "model.embed_tokens.weight", state["embed.weight"]
        for layer in range(config.n_layer):
            theirs, ours = f"model.layers.{layer}", f"blocks.{layer}"
            yield f"{theirs}.input_layernorm.weight", gain(f"{ours}.norm1")
            yield f"{theirs}.post_attention_layernorm.weight", gain(f"{ours}.norm2")
            for kind in kinds:
                parts = _split_heads(state[f"{ours}.attention.qkv.{kind}"], config)
                for letter, part in zip("qkv", parts, strict=True):
                    yield f"{theirs}.self_attn.{letter}_proj.{kind}", part.flatten(0, 1)
                yield f"{theirs}.self_attn.o_proj.{kind}", state[f"{ours}.attention.out.{kind}"]
                for name in ("gate", "up", "down"):
                    yield f"{theirs}.mlp.{name}_proj.{kind}", state[f"{ours}.mlp.{name}.{kind}"]
        yield "model.norm.weight", gain("norm")
        if not config.tie_embeddings:
            yield "lm_head.weight", state["unembed.weight"]


FORMATS: dict[str, Format] = {"GPT2LMHeadModel": GPT2(), "LlamaForCausalLM": Llama()}


def format_of(config: ModelConfig) -> str:
    """Return the name in FORMATS of the class that holds such a model.

    Raises:
        ExportError: no class does; the message says for each what would have to be otherwise.
    """
    refusals = {name: format_.refusals(config) for name, format_ in FORMATS.items()}
    for name, reasons in refusals.items():
        if not reasons:
            return name
    nearest_first = sorted(refusals.items(), key=lambda item: len(item[1]))
    needs = "; ".join(f"{name} needs {', '.join(reasons)}" for name, reasons in nearest_first)
    raise ExportError(f"no Hugging Face class holds this model: {needs}")


def _common(config: ModelConfig) -> list[str]:
    return _misfits(config, norm_order=["pre"], qk_norm=[False], logit_soft_cap=[None])


def _misfits(config: ModelConfig, **held: Sequence[object]) -> list[str]:
    return [
        f"{name} = {_spell(values[0])} (not {_spell(getattr(config, name))})"
        for name, values in held.items()
        if getattr(config, name) not in values
    ]


def _spell(value: object) -> str:
    return "no limit" if value is None else str(value)


def _split_heads(qkv: Tensor, config: ModelConfig) -> tuple[Tensor, ...]:
    sizes = (config.n_head, config.kv_heads, config.kv_heads)
    return qkv.unflatten(0, (-1, config.head_dim)).split(sizes)


def _repeat_kv_heads(qkv: Tensor, config: ModelConfig) -> Tensor:
    q, k, v = _split_heads(qkv, config)
    copies = config.n_head // config.kv_heads
    return torch.cat((q, k.repeat_interleave(copies, 0), v.repeat_interleave(copies, 0))).flatten(0, 1)
