"""Hugging Face folders as our own models: round trips, models made by transformers, and misfits."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import gptlab
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import CheckpointError
from gptlab.formats.huggingface.classes import FORMATS
from gptlab.formats.huggingface.read import UnfitError, read_ours
from gptlab.formats.huggingface.vocabulary import write_tokenizer
from gptlab.formats.huggingface.wrap import HuggingFaceModel
from gptlab.formats.huggingface.write import export
from gptlab.model.gpt import GPT
from gptlab.model.norm import NORMS
from gptlab.sample import GeneratingGPT

MakeGPT = Callable[..., GeneratingGPT]
SMALL: dict[str, Any] = {"vocab_size": 257, "pad_token_id": None, "bos_token_id": 256, "eos_token_id": 256}
WIDTH: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
OURS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": {"position": "none", "bias": False, "n_kv_head": 2, "mlp": "relu2"},
    "OPTForCausalLM": {"norm_order": "post", "n_kv_head": 1, "tie_embeddings": False},
    "Starcoder2ForCausalLM": {"position": "rope", "norm_eps": 1e-3, "mlp": "gelu_erf"},
    "StableLmForCausalLM": {"position": "rope", "mlp": "swiglu", "bias": False, "qk_norm": True},
    "PersimmonForCausalLM": {"position": "rope", "qk_norm": True, "n_kv_head": 2, "bias": False},
    "LlamaForCausalLM": LLAMA | {"norm": "rmsnorm_no_gain", "n_kv_head": 2},
    "SmolLM3ForCausalLM": LLAMA | {"position": "none", "bias": False, "tie_embeddings": False},
    "ArceeForCausalLM": LLAMA | {"position": "none", "mlp": "relu2"},
    "Qwen3ForCausalLM": LLAMA | {"qk_norm": True, "bias": False, "rope_theta": 500.0},
    "ApertusForCausalLM": LLAMA | {"qk_norm": True, "bias": False, "mlp": "gelu"},
    "VaultGemmaForCausalLM": LLAMA | {"logit_soft_cap": 15.0, "bias": False, "mlp": "relu2"},
    "NanoChatForCausalLM": LLAMA
    | {
        "norm": "rmsnorm_no_gain",
        "mlp": "gelu",
        "qk_norm": True,
        "embed_norm": True,
        "bias": False,
        "n_kv_head": 2,
    },
    "GPTLabForCausalLM": LLAMA | {"norm_order": "post", "logit_soft_cap": 15.0, "n_kv_head": 1},
}
# Models as other people configure them: the class, and the settings that make it one of ours.
FOREIGN: dict[str, dict[str, Any]] = {
    "GPT2": {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 24},
    "Llama": WIDTH | {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24},
    "Qwen3": WIDTH
    | {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 24},
    "Starcoder2": WIDTH | {"num_attention_heads": 4, "max_position_embeddings": 24},
    "Arcee": WIDTH | {"num_attention_heads": 4, "max_position_embeddings": 24, "mlp_bias": True}
    | {"attention_bias": True},
}  # fmt: skip


def made_by_transformers(kind: str, folder: Path, **more: Any) -> Any:
    import transformers

    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(
        **(SMALL | FOREIGN[kind] | {"initializer_range": 0.3} | more)
    )
    name = f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM"
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    write_tokenizer(load_tokenizer("bytes"), folder, 24)
    return model


def rewrite(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps(config))


def ours_of(folder: Path) -> GPT:
    config, state = read_ours(folder)
    model = GPT(config)
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_comes_back_bit_for_bit(name: str, gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt(**OURS[name], n_head=4)
    assert export(model, load_tokenizer("bytes"), tmp_path / "out", verify=False)["class"] == name
    config, state = read_ours(tmp_path / "out")
    assert config == model.config
    for key, tensor in model.state_dict().items():
        if FORMATS[name].exact:
            assert torch.equal(state[key], tensor), key
        else:
            torch.testing.assert_close(state[key], tensor, rtol=1e-6, atol=1e-6)
    # Without our own mark it is what the class can tell apart, which computes the same.
    rewrite(tmp_path / "out", gptlab=None)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(ours_of(tmp_path / "out")(ids), model(ids), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", FOREIGN)
def test_transformers_models_come_and_go_bit_for_bit(kind: str, tmp_path: Path) -> None:
    theirs = made_by_transformers(kind, tmp_path / "theirs")
    model = ours_of(tmp_path / "theirs")
    ids = torch.randint(257, (2, 24))
    torch.testing.assert_close(model(ids), theirs(input_ids=ids).logits, rtol=0, atol=1e-4)
    export(model, load_tokenizer("bytes"), tmp_path / "again")
    there, back = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "again"))
    assert there.keys() == back.keys()
    assert all(torch.equal(there[key], back[key]) for key in there)


def test_load_gives_our_own_model_where_it_fits(gpt: MakeGPT, tmp_path: Path, monkeypatch: Any) -> None:
    for switches in ({}, {"norm": "rmsnorm"}):  # GPT-2, and one with remote code
        out = tmp_path / str(len(switches))
        export(gpt(**switches), load_tokenizer("bytes"), out, verify=False)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "transformers", None)  # nothing of it is needed
            model, tokenizer = gptlab.load(out, "cpu")
        assert isinstance(model, GeneratingGPT)
        assert tokenizer.hash == load_tokenizer("bytes").hash
        ids = torch.randint(257, (2, 40))
        assert torch.equal(model(ids), gpt(**switches)(ids))
    made_by_transformers("Qwen3", tmp_path / "other", head_dim=16)
    assert isinstance(gptlab.load(tmp_path / "other", "cpu")[0], HuggingFaceModel)


def test_openais_own_files(tmp_path: Path) -> None:
    made_by_transformers("GPT2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    renamed |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 24, 24) for layer in range(2)}
    expected = read_ours(tmp_path)[1]
    save_file(renamed, tmp_path / "model.safetensors")
    state = read_ours(tmp_path)[1]
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def test_half_precision_and_several_files(tmp_path: Path) -> None:
    theirs = made_by_transformers("Llama", tmp_path / "whole").to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    state = read_ours(tmp_path / "parts")[1]
    assert torch.equal(state["embed.weight"], theirs.model.embed_tokens.weight.float())
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_an_export_that_was_trained_further(gpt: MakeGPT, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = gpt(n_kv_head=2, bias=False)
    export(model, load_tokenizer("bytes"), tmp_path / "out", verify=False)
    theirs = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), local_files_only=True)
    theirs.save_pretrained(tmp_path / "same")
    assert read_ours(tmp_path / "same")[0] == model.config
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path / "moved")
    config, _ = read_ours(tmp_path / "moved")
    assert config == replace(model.config, n_kv_head=None, bias=True)  # what its class can hold
    ids = torch.randint(257, (2, 40))
    torch.testing.assert_close(
        ours_of(tmp_path / "moved")(ids), theirs(input_ids=ids).logits, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("kind", "more", "message"),
    [
        ("Qwen3", {"head_dim": 16}, r"head_dim = 16 \(gptlab has 8 there\)"),
        ("Llama", {"hidden_act": "tanh"}, r"hidden_act = tanh \(gptlab has silu there\)"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            r"rope_parameters.rope_type = linear \(gptlab has default there\)",
        ),
        ("Llama", {"mlp_bias": True}, r"mlp_bias = True \(gptlab has False there\)"),
        ("Starcoder2", {"sliding_window": 8}, r"sliding_window = 8 \(gptlab has None there\)"),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx = True"),
        (
            "GPT2",
            {"activation_function": "relu"},
            r"activation_function = relu \(gptlab has gelu_new, gelu,",
        ),
    ],
)
def test_what_does_not_fit_is_named(kind: str, more: dict[str, Any], message: str, tmp_path: Path) -> None:
    made_by_transformers(kind, tmp_path, **more)
    with pytest.raises(UnfitError, match=f"does not fit gptlab's switches: .*{message}") as caught:
        read_ours(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_class_that_is_not_there(tmp_path: Path) -> None:
    made_by_transformers("GPT2", tmp_path)
    rewrite(tmp_path, model_type="bloom")
    known = ", ".join(form.model_type for form in FORMATS.values())
    with pytest.raises(UnfitError, match=f"gptlab has no model_type bloom; it has {known}$"):
        read_ours(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 100}, r"n_layer = 100 \(there are tensors of 2\)"),
        ({"n_embd": 96}, r"the tensor for embed.weight has shape \(257, 48\); this model needs \(257, 96\)"),
        ({"n_head": 7}, "n_head = 7 does not divide"),
        ({"n_layer": 10**9}, "n_layer = 1000000000: must lie between 1 and 1,024"),
        ({"position": "rope", "context": 10**7}, "no place for the tensor position.weight"),
        ({"context": 10**7}, r"the tensor for position.weight has shape \(40, 48\); this model needs"),
        ({"vocab_size": "many"}, "vocab_size = 'many': Input should be a valid integer"),
        ({"norm": "batchnorm"}, f"norm = 'batchnorm': Input should be '{next(iter(NORMS))}', "),
    ],
)
def test_damaged_folders_of_our_own_class(
    change: dict[str, Any], message: str, gpt: MakeGPT, tmp_path: Path
) -> None:
    export(gpt(mlp="swiglu"), load_tokenizer("bytes"), tmp_path / "out", verify=False)
    rewrite(tmp_path / "out", gptlab=None, **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        gptlab.load(tmp_path / "out", "cpu")
    assert "\n" not in str(caught.value)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    made_by_transformers("GPT2", tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: is a pickle.*save it again"):
        read_ours(tmp_path)
