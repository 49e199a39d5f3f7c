"""What a class of transformers can hold, written once and read in both directions.

A format lists the switches that its class has, the keys of its config.json, and for every tensor of ours the
tensors of theirs that hold it. Export reads the lists one way, import the other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gptlab.model.gpt import ModelConfig
from gptlab.parsing import typed

GELU_TANH, GELU_ERF = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), ("gelu", "gelu_python")
# transformers' names for the activation of an MLP; the first name is written, all are read.
UNGATED = {"gelu": GELU_TANH, "gelu_erf": GELU_ERF, "relu2": ("relu2",)}
GATED = {"swiglu": ("silu", "swish")}
RMSNORMS = ("rmsnorm", "rmsnorm_no_gain")

HEAD = "lm_head.weight"
# RoPE with wavelengths so long that nothing turns in any context: float32 cannot add sin x to 1.
STILL = 1e30


@dataclass(frozen=True)
class Held:
    """A tensor of ours and the tensors of theirs that hold it."""

    theirs: tuple[str, ...]
    ours: str
    split: Callable[[Tensor], Sequence[Tensor]]
    join: Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Constant:
    """A tensor of theirs that we lack, because it is the same in all our models."""

    theirs: str
    shape: tuple[int, ...]
    value: float = 0.0


Piece = Held | Constant


def same(theirs: str, ours: str) -> Held:
    """Hold a tensor as it is."""
    return Held((theirs,), ours, lambda tensor: (tensor,), lambda parts: parts[0])


def transposed(theirs: str, ours: str) -> Held:
    """Hold a matrix as (inputs, outputs)."""
    return Held((theirs,), ours, lambda tensor: (tensor.mT,), lambda parts: parts[0].mT)


def repeated(theirs: Sequence[str], ours: str) -> Held:
    """Hold a tensor several times."""
    return Held(tuple(theirs), ours, lambda tensor: [tensor] * len(theirs), lambda parts: parts[0])


def stacked(theirs: Sequence[str], ours: str, sizes: Sequence[int]) -> Held:
    """Hold the rows of a tensor in several tensors of the given sizes."""
    return Held(
        tuple(theirs), ours, lambda tensor: split_rows(tensor, sizes), lambda parts: torch.cat(list(parts))
    )


def split_rows(tensor: Tensor, sizes: Sequence[int]) -> Sequence[Tensor]:
    """Split a tensor into groups of rows of the given sizes."""
    return torch.split_with_sizes(tensor, list(sizes))


class Format:
    """A class of transformers; a subclass lists its differences from the usual layout, Llama's."""

    model_type: ClassVar[str]
    holds: ClassVar[Mapping[str, Sequence[object]]]
    """The choices of each switch that fit, the usual one first; see `choices` for those of an unlisted switch."""
    numbers: ClassVar[Mapping[str, str]] = {
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_kv_head": "num_key_value_heads",
        "n_embd": "hidden_size",
        "n_hidden": "intermediate_size",
        "context": "max_position_embeddings",
        "vocab_size": "vocab_size",
        "tie_embeddings": "tie_word_embeddings",
    }
    """Keys of ModelConfig, and their keys for the same values."""
    norm_eps: ClassVar[str | None] = "rms_norm_eps"
    """Key of the term that norms add to the variance; None if the class fixes it."""
    activation: ClassVar[str] = "hidden_act"
    activations: ClassVar[Mapping[str, Sequence[str]]]
    bias_keys: ClassVar[Sequence[str]] = ()
    """Keys that switch the biases of linear layers."""
    fixed: ClassVar[Mapping[str, object]] = {}
    """Keys that must have these values."""
    free: ClassVar[Mapping[str, object]] = {}
    """Keys that are written with these values and decide nothing, such as dropout in later training."""
    unread: ClassVar[Sequence[str]] = ()
    """Keys that other programs write and that decide nothing, whatever their value."""
    rope: ClassVar[Mapping[str, object] | None] = {}
    """What `rope_parameters` holds besides the base; None for a class without RoPE."""
    native: ClassVar[bool] = True
    """Whether the class is one of transformers' own."""
    exact: ClassVar[bool] = True
    """Whether tensors come back bit for bit; otherwise a product or a sum rounds them."""
    biased: ClassVar[bool] = False
    """Whether linear layers always have a bias: zeros if ours have none."""

    prefix: ClassVar[str] = "model."
    layer: ClassVar[str] = "model.layers.{}."
    embed: ClassVar[str] = "model.embed_tokens"
    attention: ClassVar[str] = "self_attn."
    qkv_names: ClassVar[Sequence[str]] = ("q_proj", "k_proj", "v_proj")
    out: ClassVar[str] = "o_proj"
    mlp: ClassVar[str] = "mlp."
    mlp_names: ClassVar[Mapping[str, str]] = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    norms: ClassVar[tuple[str, str]] = ("input_layernorm", "post_attention_layernorm")
    qk_norms: ClassVar[tuple[str, str]] = ("q_norm", "k_norm")
    final_norm: ClassVar[str] = "model.norm"

    @property
    def choices(self) -> Mapping[str, Sequence[object]]:
        """Like `holds`, with what hardly any class has; any choice of a switch that is still unlisted fits."""
        return {"embed_norm": [False], **self.holds}

    def misfits(self, c: ModelConfig) -> list[str]:
        """Return what the class needs instead, as in `norm = layernorm (not rmsnorm)`; empty if it fits."""
        found = [
            f"{name} = {_spell(values[0])} (not {_spell(getattr(c, name))})"
            for name, values in self.choices.items()
            if getattr(c, name) not in values
        ]
        if self.rope is not None and c.head_dim % 2:
            found.append(f"n_embd / n_head = an even number (not {c.head_dim})")
        return found

    def config(self, c: ModelConfig) -> dict[str, Any]:
        """Return the keys of config.json that decide what the class computes."""
        said = {"n_kv_head": c.kv_heads, "n_hidden": c.mlp_width}
        keys: dict[str, Any] = {"model_type": self.model_type}
        keys |= {their: said.get(our, getattr(c, our)) for our, their in self.numbers.items()}
        keys[self.activation] = self.activations[c.mlp][0]
        if self.norm_eps is not None:
            keys[self.norm_eps] = c.norm_eps
        keys |= dict.fromkeys(self.bias_keys, c.bias)
        if self.rope is not None:
            turning = {"rope": {"rope_type": "default"}, "none": {"rope_type": "linear", "factor": STILL}}
            keys["rope_parameters"] = {**turning[c.position], "rope_theta": c.rope_theta, **self.rope}
        return keys | dict(self.fixed)

    def written(self, c: ModelConfig) -> dict[str, Any]:
        """Return the keys of config.json in an export of such a model."""
        keys = self.config(c)
        rope = keys.get("rope_parameters", {})
        # transformers 4 reads RoPE's keys at the top level, 5 in rope_parameters, other programs either.
        flat = {key: rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in rope}
        return {**keys, **self.free, **flat}

    def guess(self, theirs: Mapping[str, Any]) -> ModelConfig:
        """Return our config for a config.json; the caller compares its `config` to see whether it fits.

        Raises:
            ValueError: a key is missing or has a value that we lack; the message names it.
        """
        usual: dict[str, Any] = {name: values[0] for name, values in self.choices.items()}
        usual |= {our: theirs.get(their) for our, their in self.numbers.items()}
        function = theirs.get(self.activation)
        named = [ours for ours, names in self.activations.items() if function in names]
        if not named:
            known = ", ".join(names[0] for names in self.activations.values())
            raise ValueError(f"{self.activation} = {function} (gptlab has {known} there)")
        usual["mlp"] = named[0]
        if self.norm_eps is not None:
            usual["norm_eps"] = theirs[self.norm_eps]
        if self.bias_keys:
            usual["bias"] = bool(theirs[self.bias_keys[0]])
        if self.rope is not None:
            rope = theirs["rope_parameters"]
            usual["rope_theta"] = float(rope["rope_theta"])
            if rope.get("factor", 1.0) >= STILL:
                usual["position"] = "none"
        return leave_out(typed(ModelConfig, usual))

    def pieces(self, c: ModelConfig) -> Iterator[Piece]:
        """List the class's tensors, and ours in them."""
        yield same(f"{self.embed}.weight", "embed.weight")
        yield from self.positions(c)
        for index in range(c.n_layer):
            theirs, ours = self.layer.format(index), f"blocks.{index}."
            yield from self.norm(theirs + self.norms[0], ours + "norm1", c)
            yield from self.qkv(theirs + self.attention, ours + "attention.qkv", c)
            if c.qk_norm:
                for name, kind in zip(self.qk_norms, ("q_norm", "k_norm"), strict=True):
                    yield from self.qk_norm(theirs + self.attention + name, f"{ours}attention.{kind}", c)
            yield from self.linear(theirs + self.attention + self.out, ours + "attention.out", c.n_embd, c)
            yield from self.norm(theirs + self.norms[1], ours + "norm2", c)
            yield from self.mlp_pieces(theirs + self.mlp, ours + "mlp.", c)
        if c.norm_order == "pre":
            yield from self.norm(self.final_norm, "norm", c)
        if not c.tie_embeddings:
            yield same(HEAD, "unembed.weight")

    def positions(self, c: ModelConfig) -> Iterator[Piece]:
        """List the tensors of positions."""
        yield from ()

    def norm(self, theirs: str, ours: str, c: ModelConfig, width: int | None = None) -> Iterator[Piece]:
        """List a norm's tensors; a missing gain is ones, and transformers' LayerNorm always has a bias."""
        width = width or c.n_embd
        gain = f"{theirs}.weight"
        yield Constant(gain, (width,), 1.0) if c.norm == "rmsnorm_no_gain" else same(gain, f"{ours}.weight")
        if c.norm == "layernorm":
            bias = f"{theirs}.bias"
            yield same(bias, f"{ours}.bias") if c.bias else Constant(bias, (width,))

    def qk_norm(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        """List the tensors of the queries' or the keys' norm."""
        yield from self.norm(theirs, ours, c, c.head_dim)

    def qkv(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        """List the tensors that make queries, keys and values."""
        sizes = [heads * c.head_dim for heads in (c.n_head, c.kv_heads, c.kv_heads)]
        for kind in ("weight", "bias") if c.bias else ("weight",):
            yield stacked([f"{theirs}{name}.{kind}" for name in self.qkv_names], f"{ours}.{kind}", sizes)

    def mlp_pieces(self, theirs: str, ours: str, c: ModelConfig) -> Iterator[Piece]:
        """List the tensors of an MLP."""
        for name in ("gate", "up", "down") if c.mlp == "swiglu" else ("up", "down"):
            rows = c.n_embd if name == "down" else c.mlp_width
            yield from self.linear(theirs + self.mlp_names[name], ours + name, rows, c)

    def linear(self, theirs: str, ours: str, rows: int, c: ModelConfig) -> Iterator[Piece]:
        """List a linear layer's tensors."""
        yield same(f"{theirs}.weight", f"{ours}.weight")
        if c.bias:
            yield same(f"{theirs}.bias", f"{ours}.bias")
        elif self.biased:
            yield Constant(f"{theirs}.bias", (rows,))

    def tensors(self, state: Mapping[str, Tensor], c: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """Yield the class's names and tensors, made from our state dict."""
        pieces = list(self.pieces(c))
        lost = state.keys() - {piece.ours for piece in pieces if isinstance(piece, Held)}
        assert not lost, f"{type(self).__name__}.pieces holds none of {lost}"
        for piece in pieces:
            if isinstance(piece, Constant):
                yield piece.theirs, torch.full(piece.shape, piece.value)
            else:
                yield from zip(piece.theirs, piece.split(state[piece.ours]), strict=True)

    def state(self, tensors: Mapping[str, Tensor], c: ModelConfig) -> dict[str, Tensor]:
        """Return our state dict, made from the class's tensors, and check that nothing is lost.

        Raises:
            ValueError: a tensor is missing, has another shape, or holds values that ours could not give back.
        """
        state: dict[str, Tensor] = {}
        known: set[str] = set()
        for piece in self.pieces(c):
            names = (piece.theirs,) if isinstance(piece, Constant) else piece.theirs
            known.update(names)
            missing = [name for name in names if name not in tensors]
            if missing:
                raise ValueError(f"the tensor {missing[0]} is missing")
            parts = [tensors[name] for name in names]
            try:
                if isinstance(piece, Constant):
                    again = [torch.full((), piece.value).expand(piece.shape)]
                else:
                    state[piece.ours] = piece.join(parts).contiguous()
                    again = piece.split(state[piece.ours])
                kept = all(self._equal(a, b) for a, b in zip(parts, again, strict=True))
            except RuntimeError:  # shapes that do not match
                kept = False
            if not kept:
                raise ValueError(f"gptlab cannot hold the tensor {names[0]} as it is")
        spare = sorted(tensors.keys() - known)
        if c.tie_embeddings and spare == [HEAD]:
            # transformers uses a stored head as a separate one, unless it is a copy of the embedding.
            if not torch.equal(tensors[HEAD], tensors[f"{self.embed}.weight"]):
                raise ValueError(f"{HEAD} differs from the embedding, but the config ties them")
        elif spare:
            raise ValueError(f"gptlab has no place for the tensor {spare[0]}")
        return state

    def _equal(self, theirs: Tensor, again: Tensor) -> bool:
        if self.exact or theirs.shape != again.shape:
            return torch.equal(theirs, again)
        return torch.allclose(theirs, again, rtol=1e-6, atol=1e-6)


def leave_out(c: ModelConfig) -> ModelConfig:
    """Drop the numbers that follow from the others."""
    for name in ("n_kv_head", "n_hidden"):
        shorter = replace(c, **{name: None})
        c = shorter if (shorter.kv_heads, shorter.mlp_width) == (c.kv_heads, c.mlp_width) else c
    return c


# The keys of a class with a key/value head for every query head.
UNSHARED = {our: their for our, their in Format.numbers.items() if our != "n_kv_head"}


def fused(
    theirs: str,
    ours: str,
    c: ModelConfig,
    split: Callable[[Tensor], Sequence[Tensor]],
    join: Callable[[Sequence[Tensor]], Tensor],
) -> Iterator[Piece]:
    """Hold queries, keys and values in one linear layer with a key/value head for every query head and a bias."""
    yield Held((f"{theirs}.weight",), f"{ours}.weight", split, join)
    if c.bias:
        yield Held((f"{theirs}.bias",), f"{ours}.bias", split, join)
    else:
        yield Constant(f"{theirs}.bias", (3 * c.n_embd,))


def repeat_kv_heads(qkv: Tensor, c: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Split into queries, keys and values, (heads, K, ...) each, with keys and values for every query head."""
    q, k, v = qkv.unflatten(0, (-1, c.head_dim)).split((c.n_head, c.kv_heads, c.kv_heads))
    copies = c.n_head // c.kv_heads
    return q, k.repeat_interleave(copies, 0), v.repeat_interleave(copies, 0)


def share_kv_heads(parts: Sequence[Tensor], c: ModelConfig) -> Tensor:
    """Undo `repeat_kv_heads` by taking the first of each group."""
    q, k, v = parts
    copies = c.n_head // c.kv_heads
    return torch.cat((q, k[::copies], v[::copies])).flatten(0, 1)


def _spell(value: object) -> str:
    return "no limit" if value is None else str(value)
