"""llama.cpp's architecture for each class of transformers.

llama.cpp uses other names and fixes more: one activation each, biases in some and none in others. An architecture
says what it fixes beyond the class, and turns the class's tensors into its own.

Source: ggml-org/llama.cpp, `src/models/`, and `convert_hf_to_gguf.py` for the layouts.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gptlab.errors import ExportError
from gptlab.formats.huggingface.classes import FORMATS
from gptlab.model.gpt import ModelConfig

Tensors = Iterable[tuple[str, Tensor]]


@dataclass(frozen=True)
class Architecture:
    """An architecture of llama.cpp."""

    name: str
    """Its name in the file."""
    holds: Mapping[str, Sequence[object]] = field(default_factory=dict[str, Sequence[object]])
    """What it fixes beyond the class."""
    change: Callable[[Tensors, ModelConfig], Tensors] = lambda tensors, _config: tensors
    """Turns the class's tensors into those that llama.cpp reads."""
    needs_head: bool = False
    """Whether the file holds the head even if it is tied."""
    keys: Callable[[ModelConfig], Mapping[str, Any]] = lambda _config: {}
    """Keys of this architecture alone."""


def architecture_of(c: ModelConfig) -> tuple[str, Architecture]:
    """Return the class that holds such a model and llama.cpp's architecture for it.

    Raises:
        ExportError: llama.cpp has none.
    """
    misfits = {name: _misfits(name, c) for name in ARCHITECTURES}
    nearest = min(misfits, key=lambda name: len(misfits[name]))
    if misfits[nearest]:
        raise ExportError(
            f"to gguf: no architecture of llama.cpp runs this model; the nearest, {ARCHITECTURES[nearest].name}, needs "
            f"{', '.join(misfits[nearest])}; leave out --to gguf for a Hugging Face folder"
        )
    return nearest, ARCHITECTURES[nearest]


def _misfits(class_name: str, c: ModelConfig) -> list[str]:
    """Return what a class needs instead, and llama.cpp's architecture for it."""
    further = [
        f"{name} = {' or '.join(map(str, values))} (not {getattr(c, name)})"
        for name, values in ARCHITECTURES[class_name].holds.items()
        if getattr(c, name) not in values
    ]
    return list(dict.fromkeys(FORMATS[class_name].misfits(c) + further))


def tensors_of(state: Mapping[str, Tensor], c: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield the file's tensors under the class's names, which the package gguf translates."""
    class_name, architecture = architecture_of(c)
    yield from architecture.change(FORMATS[class_name].tensors(state, c), c)
    if architecture.needs_head and c.tie_embeddings:
        yield "lm_head.weight", state["embed.weight"]


def _outputs_first(tensors: Tensors, _config: ModelConfig) -> Tensors:
    """Transpose GPT-2's matrices; its class holds them as (inputs, outputs)."""
    for name, tensor in tensors:
        yield name, tensor.T if ".h." in name and tensor.ndim == 2 else tensor


def _neighbours(tensors: Tensors, c: ModelConfig) -> Tensors:
    """Order the channels of queries and keys for a RoPE that turns 2i and 2i + 1 together, not i and i + K/2."""
    for name, tensor in tensors:
        if ".q_proj." in name or ".k_proj." in name:
            halves = tensor.unflatten(0, (-1, 2, c.head_dim // 2))
            tensor = halves.transpose(1, 2).flatten(0, 2)
        yield name, tensor


def _zero_biases(tensors: Tensors, c: ModelConfig) -> Tensors:
    """Give every linear layer a bias."""
    for name, tensor in tensors:
        yield name, tensor
        layer, _, kind = name.rpartition(".")
        if not c.bias and kind == "weight" and layer.endswith(("_proj", ".c_fc")):
            yield f"{layer}.bias", torch.zeros(len(tensor))


def _stacked_norms(tensors: Tensors, _config: ModelConfig) -> Tensors:
    """Put the gains of all heads into one tensor."""
    heads: dict[str, list[Tensor]] = {}
    for name, tensor in tensors:
        norm, apart, _ = name.partition(".norms.")
        if apart:
            heads.setdefault(f"{norm}.weight", []).append(tensor)
        else:
            yield name, tensor
    for name, gains in heads.items():
        yield name, torch.stack(gains)


def _squared_relu(c: ModelConfig) -> dict[str, Any]:
    """Set the four numbers of xIELU so that it squares values above zero and gives zero below.

    It is p x^2 + b x above and n (exp(min(x, e)) - 1 - x) + b x below, where p and n pass through a softplus.

    Source: Huang and Schlag (2024), Deriving activation functions using integration,
    https://arxiv.org/abs/2411.13010.
    """
    one, zero = math.log(math.e - 1), -200.0
    values = {"alpha_p": one, "alpha_n": zero, "beta": 0.0, "eps": -1e-6}
    return {
        f"xielu.{name}": value if name == "eps" else [value] * c.n_layer for name, value in values.items()
    }


_GELU = {"mlp": ["gelu"]}

ARCHITECTURES: dict[str, Architecture] = {
    "GPT2LMHeadModel": Architecture("gpt2", _GELU, _outputs_first),
    "Starcoder2ForCausalLM": Architecture("starcoder2", _GELU, _zero_biases),
    "StableLmForCausalLM": Architecture("stablelm", change=_stacked_norms, needs_head=True),
    "LlamaForCausalLM": Architecture("llama", change=_neighbours),
    # Llama with a RoPE that turns nothing; llama.cpp's own smollm3 turns three layers of four.
    "SmolLM3ForCausalLM": Architecture("llama", change=_neighbours),
    "ArceeForCausalLM": Architecture("arcee", {"mlp": ["relu2"], "bias": [False]}, _neighbours),
    "Qwen3ForCausalLM": Architecture("qwen3"),
    "ApertusForCausalLM": Architecture("apertus", {"mlp": ["relu2"]}, needs_head=True, keys=_squared_relu),
}
