"""Files of torch.save: a model written as in nanoGPT is the oracle; code in a file never runs."""

import os
import pickle
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.formats.nanogpt import read_nanogpt
from gptlab.model.gpt import GPT, ModelConfig

ARGS = {
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "block_size": 12,
    "vocab_size": 64,
    "bias": True,
    "dropout": 0.1,
}


@dataclass
class GPTConfig:
    """Like build-nanogpt's, which is saved as an object."""

    block_size: int = 12
    vocab_size: int = 64
    n_layer: int = 2
    n_head: int = 4
    n_embd: int = 32


def a_state(*, bias: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(4)
    shapes: dict[str, tuple[int, ...]] = {"wte": (64, 32), "wpe": (12, 32), "ln_f": (32,)}
    layer = {"ln_1": (32,), "attn.c_attn": (96, 32), "attn.c_proj": (32, 32)}
    layer |= {"ln_2": (32,), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)}
    shapes |= {f"h.{index}.{name}": shape for index in range(2) for name, shape in layer.items()}
    state = {}
    for name, shape in shapes.items():
        norm = len(shape) == 1
        state[f"transformer.{name}.weight"] = 0.2 * torch.randn(shape) + (1.0 if norm else 0.0)
        if bias and name not in ("wte", "wpe"):
            state[f"transformer.{name}.bias"] = 0.2 * torch.randn(shape[0])
    return state | {"lm_head.weight": state["transformer.wte.weight"]}


def logits_of(state: dict[str, Tensor], ids: Tensor, approximate: str) -> Tensor:
    def part(name: str, x: Tensor) -> Tensor:
        weight, bias = state[f"transformer.{name}.weight"], state.get(f"transformer.{name}.bias")
        return F.layer_norm(x, (32,), weight, bias) if weight.ndim == 1 else F.linear(x, weight, bias)

    x = state["transformer.wte.weight"][ids] + state["transformer.wpe.weight"][: ids.shape[1]]
    for index in range(2):
        q, k, v = part(f"h.{index}.attn.c_attn", part(f"h.{index}.ln_1", x)).split(32, dim=2)
        heads = [t.unflatten(2, (4, 8)).transpose(1, 2) for t in (q, k, v)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        x = x + part(f"h.{index}.attn.c_proj", y)
        hidden = F.gelu(part(f"h.{index}.mlp.c_fc", part(f"h.{index}.ln_2", x)), approximate=approximate)
        x = x + part(f"h.{index}.mlp.c_proj", hidden)
    return F.linear(part("ln_f", x), state["lm_head.weight"])


def logits_read(path: Path, ids: Tensor, **options: Any) -> Tensor:
    config, state = read_nanogpt(path, **options)
    model = GPT(config)
    model.load_state_dict(state)
    return model(ids)


IDS = torch.arange(24).view(2, 12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_nanogpts_checkpoint(bias: bool, prefix: str, tmp_path: Path) -> None:
    state = a_state(bias=bias)
    saved = {
        "model": OrderedDict((prefix + name, tensor) for name, tensor in state.items()),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-3, "params": [0]}],
        },
        "model_args": ARGS | {"bias": bias},
        "iter_num": 3,
        "best_val_loss": torch.tensor(4.0),
        "config": {"batch_size": 8, "n_head": 99},
    }
    saved["model"][f"{prefix}transformer.h.0.attn.bias"] = torch.ones(1, 1, 12, 12)  # an old mask
    torch.save(saved, tmp_path / "ckpt.pt")
    config, _ = read_nanogpt(tmp_path / "ckpt.pt")
    assert (config.mlp, config.bias, config.tie_embeddings) == ("gelu_erf", bias, True)
    torch.testing.assert_close(logits_read(tmp_path / "ckpt.pt", IDS), logits_of(state, IDS, "none"))


def test_build_nanogpts_config_is_read_without_its_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, path = a_state(), tmp_path / "model_00100.pt"
    monkeypatch.setattr(GPTConfig, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "GPTConfig", GPTConfig, raising=False)
    torch.save({"model": state, "config": GPTConfig(), "step": 100, "val_loss": 3.0}, path)
    monkeypatch.delattr(sys.modules["__main__"], "GPTConfig")
    torch.testing.assert_close(logits_read(path, IDS), logits_of(state, IDS, "tanh"))


def test_an_older_kind_of_file(tmp_path: Path) -> None:
    state = a_state()
    torch.save(
        {"model": state, "config": ARGS}, tmp_path / "step_9.pth", _use_new_zipfile_serialization=False
    )
    torch.testing.assert_close(logits_read(tmp_path / "step_9.pth", IDS), logits_of(state, IDS, "tanh"))


def test_untied_split_and_grouped(tmp_path: Path) -> None:
    state = a_state(bias=False)
    state["lm_head.weight"] = torch.randn(64, 32)
    grouped = dict(state)
    for index in range(2):
        name = f"transformer.h.{index}.attn.c_attn.weight"
        q, k, v = grouped.pop(name).split(32)
        # Two key/value heads, each shared by two query heads.
        for letter, part in (("q", q), ("k", k[:16]), ("v", v[:16])):
            grouped[f"transformer.h.{index}.attn.{letter}_proj.weight"] = part
        shared = [part[:16].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1) for part in (k, v)]
        state[name] = torch.cat((q, *shared))
    torch.save({"model": grouped, "config": {"n_head": 4}}, tmp_path / "model.pth")
    config, _ = read_nanogpt(tmp_path / "model.pth")
    assert (config.kv_heads, config.tie_embeddings) == (2, False)
    torch.testing.assert_close(logits_read(tmp_path / "model.pth", IDS), logits_of(state, IDS, "tanh"))


@pytest.mark.parametrize("pairs", ["halves", "neighbours"])
def test_a_relative_whose_recipe_is_told(pairs: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    like = ModelConfig(
        n_layer=2, n_head=4, n_kv_head=2, n_embd=32, n_hidden=40, context=12, norm="rmsnorm",
        position="rope", mlp="swiglu", bias=False, qk_norm=True, vocab_size=64,
    )  # fmt: skip
    model = GPT(like)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    names = {"norm1": "attention_norm", "norm2": "ffn_norm", "mlp.gate": "feed_forward.w1"}
    names |= {"mlp.up": "feed_forward.w3", "mlp.down": "feed_forward.w2", "embed": "tok_embeddings"}
    names |= {"attention.out": "attention.wo", "blocks": "layers"}
    order = torch.arange(8)
    if pairs == "neighbours":
        order = torch.arange(8).view(2, 4).T.flatten()  # channel i of a half next to that of the other
    state = {}
    for name, tensor in model.state_dict().items():
        theirs = name
        for ours, other in names.items():
            theirs = theirs.replace(ours, other)
        if ".qkv." in name:
            q, k, v = tensor.split([32, 16, 16])
            for letter, part in (("q", q), ("k", k)):
                turned = part.unflatten(0, (-1, 8))[:, order].flatten(0, 1)
                state[theirs.replace("qkv", f"w{letter}")] = turned
            state[theirs.replace("qkv", "wv")] = v
        else:
            state[theirs] = tensor[order] if "_norm.weight" in name and "attention." in name else tensor
    torch.save(state, tmp_path / "state.pth")  # the state dict alone
    torch.testing.assert_close(
        logits_read(tmp_path / "state.pth", IDS, like=like, rope_pairs=pairs), model(IDS), rtol=0, atol=0
    )
    with pytest.raises(CheckpointError, match=r"n_head = None: must divide.*--like RECIPE"):
        read_nanogpt(tmp_path / "state.pth")


class Evil:
    """Unpickling this would make a folder."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        function, *arguments = self.call
        return function, tuple(arguments)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.mkdir, exec])
def test_code_is_refused_and_not_run(function: Any, zipped: bool, tmp_path: Path) -> None:
    path, made = tmp_path / "evil.pt", str(tmp_path / "made")
    evil = Evil(exec, f"import os; os.mkdir({made!r})") if function is exec else Evil(function, made)
    torch.save(
        {"model": a_state(), "config": ARGS, "more": evil}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        CheckpointError, match=r"holds [\w.]*(mkdir|exec), which could run any code"
    ) as caught:
        read_nanogpt(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "holds no state dict; save it under one of model, "),
        ({"model_args": {}}, r"n_head = None: must divide the width of 32.*--like RECIPE"),
        ({"model_args": ARGS | {"n_head": 5}}, "n_head = 5: must divide the width of 32"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    torch.save({"model": a_state(), "model_args": ARGS} | change, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_nanogpt(tmp_path / "ckpt.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("gone", "added", "message"),
    [
        ("transformer.h.1.mlp.c_fc.bias", None, "the tensor for blocks.1.mlp.up.bias is missing"),
        ("transformer.wpe.weight", None, "not a GPT-2, and its tensors do not show what it computes.*--like"),
        (
            None,
            "transformer.h.0.attn.alibi.slopes",
            r"the tensor transformer.h.0.attn.alibi.slopes has a name that",
        ),
        (None, "transformer.h.0.mlp.gate.weight", "not a GPT-2, and its tensors do not show"),
        ("transformer.h.0.attn.c_attn.weight", None, "blocks.0.attention.qkv.weight is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    gone: str | None, added: str | None, message: str, tmp_path: Path
) -> None:
    state = a_state()
    if gone is not None:
        del state[gone]
    if added is not None:
        state[added] = torch.zeros(128, 32)
    torch.save({"model": state, "model_args": ARGS}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=message):
        read_nanogpt(tmp_path / "ckpt.pt")


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save({"model": a_state(), "model_args": ARGS}, path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:40], b"PK", b"\x80", pickle.dumps([1, 2])):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"torch cannot read it|holds no state dict|not a state dict"
        ) as caught:
            read_nanogpt(path)
        assert "\n" not in str(caught.value)
