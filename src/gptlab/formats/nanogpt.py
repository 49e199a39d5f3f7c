"""nanoGPT's ckpt.pt, build-nanogpt's model_NNNNN.pt, and files like them.

These are pickles, the only ones that gptlab opens, and torch opens them with weights_only: it makes tensors and
plain containers and refuses everything else before it runs. build-nanogpt saves its config as an object of its own
class; only the values of that object are read.

Source: karpathy/nanoGPT, `train.py`; karpathy/build-nanogpt, `train_gpt2.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.formats.checked import checked_state
from gptlab.model.gpt import ModelConfig
from gptlab.parsing import typed

RopePairs = Literal["halves", "neighbours"]

WRAPPERS = ("_orig_mod.", "module.", "transformer.", "model.")  # from torch.compile, DDP, and habit
STATES, CONFIGS = ("model", "model_state_dict", "state_dict"), ("model_args", "config", "model_config")

# Names of the parts, nanoGPT's own first.
OUTER = {
    "embed": "wte|tok_emb|tok_embeddings|embed_tokens",
    "position": "wpe|pos_emb|pos_embeddings",
    "norm": "ln_f|norm_f|norm",
    "unembed": "lm_head|output",
}
INNER = {
    "norm1": "ln_1|ln1|norm1|input_layernorm|attention_norm",
    "norm2": "ln_2|ln2|norm2|post_attention_layernorm|ffn_norm",
    "attention.qkv": "attn.c_attn|attn.qkv|attn.qkv_proj",
    "attention.q": "attn.q_proj|attn.c_q|attn.wq|attn.query|attn.q",
    "attention.k": "attn.k_proj|attn.c_k|attn.wk|attn.key|attn.k",
    "attention.v": "attn.v_proj|attn.c_v|attn.wv|attn.value|attn.v",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "attention.out": "attn.c_proj|attn.o_proj|attn.out_proj|attn.wo|attn.proj",
    "mlp.gate": "mlp.gate_proj|mlp.c_gate|mlp.gate|mlp.w1",
    "mlp.up": "mlp.c_fc|mlp.up_proj|mlp.fc1|mlp.up|mlp.w3",
    "mlp.down": "mlp.c_proj|mlp.down_proj|mlp.fc2|mlp.down|mlp.w2",
}
FOLDERS = {"attention": "attn", "self_attn": "attn", "ffn": "mlp", "feed_forward": "mlp"}
BLOCK = re.compile(r"(?:h|layers|blocks)\.(\d+)\.(.+)")
# Not parameters: masks and tables that the model makes itself.
BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.mask$|rotary|inv_freq|freqs_cis|(cos|sin)_cached$")


def read_nanogpt(
    path: Path, like: ModelConfig | None = None, rope_pairs: RopePairs = "halves"
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the config and the float32 state dict.

    Args:
        path: a file of torch.save.
        like: the switches and heads, for a model that is not a GPT-2 or a file that does not say; all other numbers
            come from the tensors.
        rope_pairs: which channels RoPE turns together: i and i + K/2, as ours, or 2i and 2i + 1, as in the paper.

    Raises:
        CheckpointError: the file is damaged, contains code, or holds another model.
    """
    saved = _open(path)
    state, said = _split(path, saved)
    try:
        state = _renamed(state)
        config = _config(state, said, like, erf="model_args" in saved)
        if config.position == "rope" and rope_pairs == "neighbours":
            state = {name: _halves(name, tensor, config) for name, tensor in state.items()}
        return config, checked_state(config, state)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


class _Values:
    """Stands in for an object of a foreign class: its values, without its code."""

    def __init__(self, *_: object, **__: object) -> None:
        pass


def _open(path: Path) -> Mapping[str, Any]:
    allowed: list[Any] = []
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
        allowed = [(_Values, name) for name in foreign if name.endswith("Config")]
    except Exception:
        pass
    try:
        with torch.serialization.safe_globals(allowed):
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever it likes
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise CheckpointError(
                f"{path}: holds {refused[1]}, which could run any code and is not opened; save the model alone: "
                "torch.save({'model': model.state_dict(), 'config': dict(n_head=...)}, path)"
            ) from None
        raise CheckpointError(
            f"{path}: torch cannot read it ({type(error).__name__}); get it again"
        ) from None
    if not isinstance(saved, Mapping):
        raise CheckpointError(f"{path}: holds a {type(saved).__name__}, not a state dict")
    return cast(Mapping[str, Any], saved)


def _split(path: Path, saved: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Separate the tensors from the settings saved with them."""
    held = next((saved[key] for key in STATES if isinstance(saved.get(key), Mapping)), saved)
    state = {str(name): tensor for name, tensor in held.items() if isinstance(tensor, Tensor)}
    if not any(tensor.ndim == 2 for tensor in state.values()):
        raise CheckpointError(f"{path}: holds no state dict; save it under one of {', '.join(STATES)}")
    said = next((saved[key] for key in CONFIGS if key in saved), {})
    said = vars(said) if isinstance(said, _Values) else said
    return state, dict(cast(Mapping[str, Any], said)) if isinstance(said, Mapping) else {}


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare = name
        while bare.startswith(WRAPPERS):
            bare = bare.partition(".")[2]
        if BUFFERS.search(f".{bare}"):
            continue
        found[_our_name(bare) or _unknown(name)] = tensor.to(torch.float32)
    if "embed.weight" not in found and "unembed.weight" in found:
        found["embed.weight"] = found["unembed.weight"]
    tied = found.get("unembed.weight")
    if tied is not None and torch.equal(tied, found["embed.weight"]):
        del found["unembed.weight"]
    for name in [name for name in found if ".attention.q." in name]:
        parts = [name.replace(".q.", f".{letter}.") for letter in "qkv"]
        found[name.replace(".q.", ".qkv.")] = torch.cat([_taken(found, part) for part in parts])
    return found


def _our_name(name: str) -> str | None:
    name, _, kind = name.rpartition(".")
    block = BLOCK.fullmatch(name)
    if block is None:
        return next((f"{our}.{kind}" for our, theirs in OUTER.items() if name in theirs.split("|")), None)
    folder, dot, part = block[2].partition(".")
    inner = FOLDERS.get(folder, folder) + dot + part
    return next(
        (f"blocks.{block[1]}.{our}.{kind}" for our, theirs in INNER.items() if inner in theirs.split("|")),
        None,
    )


def _unknown(name: str) -> str:
    raise ValueError(f"the tensor {name} has a name that gptlab does not know")


def _taken(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"the tensor for {name} is missing")
    return state.pop(name)


def _config(
    state: Mapping[str, Tensor], said: Mapping[str, Any], like: ModelConfig | None, *, erf: bool
) -> ModelConfig:
    """Read the numbers off the tensors; the file or `like` supplies the rest."""
    layers = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    for name in ("embed.weight", "blocks.0.attention.qkv.weight", "blocks.0.mlp.up.weight"):
        if name not in state:
            raise ValueError(f"the tensor for {name} is missing")
    vocab_size, n_embd = state["embed.weight"].shape
    rows, n_hidden = len(state["blocks.0.attention.qkv.weight"]), len(state["blocks.0.mlp.up.weight"])
    numbers: dict[str, Any] = {
        "n_layer": len(layers),
        "n_embd": n_embd,
        "n_hidden": n_hidden,
        "vocab_size": vocab_size,
        "tie_embeddings": "unembed.weight" not in state,
    }
    table = state.get("position.weight")
    if like is not None:
        context = {"context": len(table)} if table is not None else {}
        return replace(like, **numbers, **context)
    n_head = said.get("n_head")
    if not isinstance(n_head, int) or n_head < 1 or n_embd % n_head:
        raise ValueError(
            f"n_head = {n_head}: must divide the width of {n_embd}; name a recipe with the right number, with "
            "--like RECIPE"
        )
    if table is None or "blocks.0.mlp.gate.weight" in state or "blocks.0.attention.q_norm.weight" in state:
        raise ValueError(
            "the model is not a GPT-2, and its tensors do not show what it computes; name a recipe of its "
            "architecture, with --like RECIPE"
        )
    return typed(
        ModelConfig,
        {
            **numbers,
            "n_head": n_head,
            "n_kv_head": (rows * n_head // n_embd - n_head) // 2,
            "context": len(table),
            "bias": "blocks.0.attention.qkv.bias" in state,
            # nanoGPT has computed the exact function since June 2023; build-nanogpt computes GPT-2's approximation.
            "mlp": "gelu_erf" if erf else "gelu",
        },
    )


def _halves(name: str, tensor: Tensor, c: ModelConfig) -> Tensor:
    """Put the channels of queries and keys into the order that our RoPE turns."""
    if ".qkv." in name:
        turned, values = tensor.split([(c.n_head + c.kv_heads) * c.head_dim, c.kv_heads * c.head_dim])
        heads = turned.unflatten(0, (-1, c.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
        return torch.cat((heads, values))
    if "_norm." in name:
        return tensor.unflatten(0, (-1, 2)).T.flatten()
    return tensor
