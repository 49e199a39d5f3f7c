"""Folders whose config, mark, tensors and index contradict each other: none is trusted alone."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import gptlab
from gptlab import cli
from gptlab.actions.import_ import import_model
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.errors import CheckpointError
from gptlab.formats.huggingface.classes import FORMATS
from gptlab.formats.huggingface.read import UnfitError, read_ours
from gptlab.formats.huggingface.wrap import HuggingFaceModel
from gptlab.formats.huggingface.write import export
from gptlab.sample import GeneratingGPT

MakeGPT = Callable[..., GeneratingGPT]
LLAMA: dict[str, Any] = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
ROPE: dict[str, Any] = {"position": "rope"}
# Every class of transformers with RoPE.
TURNING: dict[str, dict[str, Any]] = {
    "Starcoder2ForCausalLM": ROPE,
    "StableLmForCausalLM": ROPE | {"mlp": "swiglu", "bias": False},
    "PersimmonForCausalLM": ROPE | {"qk_norm": True},
    "LlamaForCausalLM": LLAMA,
    "ArceeForCausalLM": LLAMA | {"mlp": "relu2"},
    "Qwen3ForCausalLM": LLAMA | {"qk_norm": True, "bias": False},
    "ApertusForCausalLM": LLAMA | {"qk_norm": True, "bias": False, "mlp": "relu2"},
    "VaultGemmaForCausalLM": LLAMA | {"logit_soft_cap": 15.0, "bias": False},
    "NanoChatForCausalLM": ROPE
    | {"norm": "rmsnorm_no_gain", "mlp": "relu2", "qk_norm": True, "embed_norm": True, "bias": False},
}
SCALED = {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}
INDEX = "model.safetensors.index.json"


def exported(model: GeneratingGPT, folder: Path) -> Path:
    export(model, load_tokenizer("bytes"), folder, verify=False)
    return folder


def rewrite(folder: Path, *without: str, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | keys
    left = {key: value for key, value in config.items() if key not in without}
    (folder / "config.json").write_text(json.dumps(left))


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def theirs(folder: Path) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model(input_ids=torch.arange(40)[None]).logits.detach()


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def test_every_class_with_rope_is_there() -> None:
    native = {name for name, form in FORMATS.items() if form.native and form.rope is not None}
    assert native == TURNING.keys() | {"SmolLM3ForCausalLM"}  # which turns nothing


@pytest.mark.parametrize("name", TURNING)
def test_a_key_that_we_never_write_counts(name: str, gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt(**TURNING[name])
    folder = exported(model, tmp_path / "out")
    ids = torch.arange(40)[None]
    rewrite(folder, **SCALED)
    assert _apart(theirs(folder), model(ids)) > 0.1
    with pytest.raises(UnfitError, match=r"rope_parameters.rope_type = linear \(gptlab has default there\)"):
        read_ours(folder)
    with pytest.raises(CheckpointError, match="does not fit gptlab's switches"):
        import_model(folder, tmp_path / "run")
    loaded, _ = gptlab.load(folder, "cpu")
    assert isinstance(loaded, HuggingFaceModel)
    torch.testing.assert_close(loaded(ids), theirs(folder))


@pytest.mark.parametrize(("keys", "words"), [
    (SCALED, r"rope_scaling = \{'rope_type': 'linear', 'factor': 4.0\}"),
    ({"rope_theta": 500.0}, r"rope_theta = 500.0 \(gptlab has 10000.0 there\)"),
    ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, "rope_parameters.factor = 4.0"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config = "),
    ({"unheard_of": 1}, r"unheard_of = 1 \(gptlab has no such key\)"),
    ({"is_causal": None}, "is_causal = None"),
    ({"hidden_act": "gelu"}, r"hidden_act = gelu \(gptlab has silu there\)"),
    ({"rms_norm_eps": None}, "rms_norm_eps = None"),
    ({"attention_dropout": 1.5}, "attention_dropout = 1.5"),
    ({"torch_dtype": "int8"}, "torch_dtype = int8"),
])  # fmt: skip
def test_without_transformers_the_key_is_named(
    keys: dict[str, Any], words: str, gpt: MakeGPT, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = exported(gpt(**LLAMA), tmp_path / "out")
    rewrite(folder, **keys)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=f"its config.json has {words}.*: this needs .*transformers"):
        gptlab.load(folder, "cpu")


def test_without_transformers_a_key_that_is_not_there_is_named(
    gpt: MakeGPT, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = exported(gpt(**TURNING["VaultGemmaForCausalLM"]), tmp_path / "out")
    rewrite(folder, "attn_logit_softcapping")  # null in an export, 50 in a file that has none
    monkeypatch.setitem(sys.modules, "transformers", None)
    said = "its config.json has no attn_logit_softcapping: this needs .*transformers"
    with pytest.raises(CheckpointError, match=said):
        gptlab.load(folder, "cpu")


# Class, a change to the config, and the complaint.
CONTRADICTIONS = [
    ({}, {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
    ({}, {"hidden_size": 96}, "does not fit gptlab's switches"),
    ({}, {"unheard_of": 1}, r"unheard_of = 1 \(gptlab has no such key\)"),
    ({}, {"is_causal": False}, r"is_causal = False"),
    ({}, {"is_causal": None}, r"is_causal = None"),
    ({}, {"quantization_config": {"quant_method": "fp8"}}, "quantization_config = "),
    ({}, {"transformers_weights": "other.safetensors"}, "transformers_weights = other.safetensors"),
    ({}, {"torch_dtype": "int8"}, "torch_dtype = int8"),
    ({}, {"attn_pdrop": -1.0}, r"attn_pdrop = -1\.0"),
    ({"norm": "rmsnorm"}, {"pad_token_id": "None"}, "pad_token_id = None"),
    ({"norm": "rmsnorm"}, {"n_embd": 48.0}, r"n_embd = 48\.0"),
    (TURNING["ApertusForCausalLM"], {"head_dim": None}, r"head_dim = None \(gptlab has no such key\)"),
    ({}, {"auto_map": {"AutoModelForCausalLM": "x.Y"}}, "auto_map = "),
    ({"norm_order": "post"}, {"_remove_final_layer_norm": True}, "_remove_final_layer_norm = True"),
    ({"norm_order": "post"}, {"word_embed_proj_dim": 16}, "word_embed_proj_dim = 16"),
    (LLAMA, {"head_dim": 16}, r"head_dim = 16 \(gptlab has 8 there\)"),
    (LLAMA, {"rope_theta": 500.0}, r"rope_theta = 500.0 \(another key of RoPE's says otherwise\)"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
    (LLAMA, {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2}, "layer_types = "),
    (TURNING["VaultGemmaForCausalLM"], {"sliding_window": 4, "layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ({"norm": "rmsnorm"}, {"num_attention_heads": 3}, "num_attention_heads = 3"),
    ({"norm": "rmsnorm"}, {"unheard_of": 1}, "unheard_of = 1"),
    ({"norm": "rmsnorm"}, {"auto_map": {"AutoModelForCausalLM": "x.Y"}}, "auto_map.AutoModelForCausalLM = x.Y"),
]  # fmt: skip


@pytest.mark.parametrize(("switches", "keys", "message"), CONTRADICTIONS)
def test_what_the_config_says_besides(
    switches: dict[str, Any], keys: dict[str, Any], message: str, gpt: MakeGPT, tmp_path: Path
) -> None:
    folder = exported(gpt(**switches), tmp_path / "out")
    rewrite(folder, **keys)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_ours(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [
    {"attn_pdrop": 0.3, "use_cache": False, "transformers_version": "4.40.0", "eos_token_id": [1, 2]},
    {"n_ctx": 40, "summary_type": "mean", "task_specific_params": {"x": 1}, "initializer_range": 0.5},
    {"torch_dtype": "bfloat16"}, {"activation_function": "gelu_pytorch_tanh"}, {"n_inner": None},
])  # fmt: skip
def test_what_decides_no_number_is_read_over(keys: dict[str, Any], gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt()
    folder = exported(model, tmp_path / "out")
    rewrite(folder, **keys)
    loaded, _ = gptlab.load(folder, "cpu")
    assert isinstance(loaded, GeneratingGPT)
    ids = torch.arange(40)[None]
    assert torch.equal(loaded(ids), model(ids))
    torch.testing.assert_close(theirs(folder), model(ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("without", "keys"), [
    ([], {"use_cache": False}), ([], {"_name_or_path": "x"}), ([], {"transformers_version": "4.40.0"}),
    ([], {"hidden_act": "swish"}), ([], {"attention_dropout": 0.1}), ([], {"eos_token_id": [256, 5]}),
    ([], {"rope_scaling": None}), ([], {"rope_interleaved": False}), (["torch_dtype"], {"dtype": "bfloat16"}),
    (["attention_dropout", "architectures", "pad_token_id"], {"use_cache": True, "pretraining_tp": 1}),
])  # fmt: skip
def test_what_decides_no_number_needs_no_transformers(
    without: list[str], keys: dict[str, Any], gpt: MakeGPT, tmp_path: Path, monkeypatch: Any
) -> None:
    model, ids = gpt(**LLAMA), torch.arange(40)[None]
    folder = exported(model, tmp_path / "out")
    rewrite(folder, *without, **keys)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        assert torch.equal(gptlab.load(folder, "cpu")[0](ids), model(ids))
    assert torch.equal(gptlab.load(folder, "cpu")[0](ids), model(ids))
    torch.testing.assert_close(theirs(folder), model(ids), rtol=0, atol=1e-4)


def test_a_small_vocabulary_is_nothing_to_warn_of(
    tmp_path: Path, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    # No other test has this size; transformers warns once for each.
    config = GPT2Config(vocab_size=263, n_embd=32, n_layer=2, n_head=2, bos_token_id=256, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert read_ours(tmp_path)[0].vocab_size == 263
    assert caplog.messages == []


def test_a_cap_that_was_taken_out(gpt: MakeGPT, tmp_path: Path) -> None:
    folder = exported(gpt(**TURNING["VaultGemmaForCausalLM"]), tmp_path / "out")
    rewrite(folder, final_logit_softcapping=None)
    assert read_ours(folder)[0].logit_soft_cap is None  # whatever the mark says
    ids = torch.arange(40)[None]
    torch.testing.assert_close(gptlab.load(folder, "cpu")[0](ids), theirs(folder), rtol=0, atol=1e-4)


def test_a_head_that_is_not_the_embedding(gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt(**LLAMA)
    folder = exported(model, tmp_path / "out")
    ids = torch.arange(40)[None]
    change_tensors(
        folder, lambda there: there.update({"lm_head.weight": model.embed.weight.detach().clone()})
    )
    assert read_ours(folder)[0] == model.config  # its copy is no other
    change_tensors(folder, lambda there: there.update({"lm_head.weight": torch.randn(257, 48)}))
    with pytest.raises(
        UnfitError, match=r"lm_head.weight differs from the embedding, but the config ties them"
    ):
        read_ours(folder)
    torch.testing.assert_close(gptlab.load(folder, "cpu")[0](ids), theirs(folder))
    assert _apart(theirs(folder), model(ids)) > 0.1


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.norm.weight", torch.ones(48, dtype=torch.int8), "model.norm.weight is int8, not floating point"),
        ("model.norm.weight", torch.full((48,), float("nan")), "model.norm.weight holds NaN or infinite values"),
        ("model.embed_tokens.weight", torch.full((257, 48), torch.inf), "holds NaN or infinite values"),
        ("model.norm.bias", torch.ones(48), "gptlab has no place for the tensor model.norm.bias"),
    ],
)  # fmt: skip
def test_tensors_that_are_no_weights(
    name: str, tensor: Tensor, message: str, gpt: MakeGPT, tmp_path: Path
) -> None:
    folder = exported(gpt(**LLAMA), tmp_path / "out")
    change_tensors(folder, lambda there: there.update({name: tensor}))
    with pytest.raises(UnfitError, match=message):
        read_ours(folder)


def in_two_files(folder: Path, **changes: Any) -> None:
    """Put the weights into the files a and b, with an index that can be changed."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / "model.safetensors").unlink()
    places = {name: file for file, held in parts.items() for name in held}
    (folder / INDEX).write_text(json.dumps({"weight_map": places | changes}))


def test_an_index_that_is_right(gpt: MakeGPT, tmp_path: Path) -> None:
    model = gpt()
    folder = exported(model, tmp_path / "out")
    in_two_files(folder)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in read_ours(folder)[1].items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer.wte.weight": "a.safetensors"}, r"a.safetensors: the tensor transformer.wte.weight is missing"),
        ({"transformer.wte.weight": "c.safetensors"}, r"transformer.wte.weight belongs in c.safetensors according to"),
        ({"other": "b.safetensors"}, "b.safetensors: the tensor other is missing; get the folder again"),
        ({"other": "../b.safetensors"}, "its weight_map does not name files beside it"),
        ({"other": 3}, "its weight_map does not name files beside it"),
    ],
)  # fmt: skip
def test_an_index_that_contradicts_its_files(
    changes: dict[str, Any], message: str, gpt: MakeGPT, tmp_path: Path
) -> None:
    folder = exported(gpt(), tmp_path / "out")
    in_two_files(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        gptlab.load(folder, "cpu")
    assert "\n" not in str(caught.value)


def test_a_tensor_in_two_files(gpt: MakeGPT, tmp_path: Path) -> None:
    folder = exported(gpt(), tmp_path / "out")
    in_two_files(folder)
    twice = {"transformer.wte.weight": torch.zeros(257, 48)}
    save_file(load_file(folder / "a.safetensors") | twice, folder / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"wte.weight belongs in b.safetensors according to the index"):
        gptlab.load(folder, "cpu")


def test_an_adapter_beside(gpt: MakeGPT, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = exported(gpt(), tmp_path / "out")
    (folder / "adapter_config.json").write_text("{}")
    for words in (
        ["sample", folder, "--prompt", "a"],
        ["export", folder, tmp_path / "x"],
        ["import", folder, tmp_path / "x"],
    ):
        assert cli.main(list(map(str, words))) != 0
        assert (
            "has an adapter_config.json, which changes the model only where peft is installed"
            in capsys.readouterr().err
        )


def test_an_export_as_it_was_written_needs_no_transformers(
    gpt: MakeGPT, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    for number, switches in enumerate((*TURNING.values(), {}, {"norm": "rmsnorm"})):
        model = gpt(**switches)
        config, _ = read_ours(exported(model, tmp_path / str(number)))
        assert config == model.config
