"""Formats: what each class holds, over every combination of switches, with transformers' own classes as oracle."""

import random
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from gptlab.errors import ExportError
from gptlab.formats.huggingface.classes import (
    FORMATS,
    MODELING,
    OWN,
    TABLES,
    format_of,
    native_misfits,
    parts,
)
from gptlab.formats.huggingface.classes.format import Constant
from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT

MakeGPT = Callable[..., GeneratingGPT]
Claim = Callable[..., ModelConfig]
SWITCHES: dict[str, list[Any]] = {
    **{switch: list(names) for switch, names in parts().items()},
    "bias": [True, False],
    "tie_embeddings": [True, False],
    "embed_norm": [False, True],
    "qk_norm": [False, True],
    "logit_soft_cap": [None, 15.0],
    "n_kv_head": [None, 2],
}
COMBINATIONS = [dict(zip(SWITCHES, values, strict=True)) for values in product(*SWITCHES.values())]
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}
NANOCHAT = {
    "norm": "rmsnorm_no_gain",
    "position": "rope",
    "mlp": "relu2",
    "bias": False,
    "embed_norm": True,
    "qk_norm": True,
}


def config_of(switches: dict[str, Any], **more: Any) -> ModelConfig:
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": 12, "vocab_size": 29}
    return ModelConfig(**(sizes | switches | more))


def of_each_native_format(count: int) -> list[Any]:
    draw, groups = random.Random(0), dict[str, list[dict[str, Any]]]()
    for switches in COMBINATIONS:
        groups.setdefault(format_of(config_of(switches)), []).append(switches)
    del groups[OWN]  # test_modeling_gptlab.py goes through every combination
    return [
        pytest.param(name, switches, id=f"{name}-{number}")
        for name, members in groups.items()
        for number, switches in enumerate(draw.sample(members, count))
    ]


@pytest.mark.parametrize(
    ("switches", "name"),
    [
        ({}, "GPT2LMHeadModel"),
        ({"bias": False, "n_kv_head": 2, "tie_embeddings": False, "n_hidden": 100}, "GPT2LMHeadModel"),
        ({"position": "none"}, "GPT2LMHeadModel"),
        ({"mlp": "relu2"}, "GPT2LMHeadModel"),
        ({"norm_order": "post"}, "OPTForCausalLM"),
        ({"norm_order": "post", "norm_eps": 1e-6}, OWN),
        ({"position": "rope"}, "Starcoder2ForCausalLM"),
        ({"position": "rope", "mlp": "relu2"}, "Starcoder2ForCausalLM"),
        ({"position": "rope", "mlp": "swiglu", "bias": False}, "StableLmForCausalLM"),
        ({"position": "rope", "mlp": "swiglu"}, OWN),
        ({"position": "rope", "qk_norm": True}, "PersimmonForCausalLM"),
        (LLAMA, "LlamaForCausalLM"),
        (LLAMA | {"norm": "rmsnorm_no_gain"}, "LlamaForCausalLM"),
        (LLAMA | {"position": "none"}, "SmolLM3ForCausalLM"),
        (LLAMA | {"position": "none", "n_head": 32}, OWN),  # a head of one channel
        (LLAMA | {"mlp": "gelu"}, "ArceeForCausalLM"),
        (LLAMA | {"mlp": "relu2", "position": "none"}, "ArceeForCausalLM"),
        (LLAMA | {"qk_norm": True, "bias": False}, "Qwen3ForCausalLM"),
        (LLAMA | {"qk_norm": True}, OWN),
        (LLAMA | {"qk_norm": True, "bias": False, "mlp": "relu2"}, "ApertusForCausalLM"),
        (LLAMA | {"logit_soft_cap": 30.0, "bias": False}, "VaultGemmaForCausalLM"),
        (NANOCHAT, "NanoChatForCausalLM"),
        (NANOCHAT | {"logit_soft_cap": 15.0, "mlp": "gelu", "position": "none"}, "NanoChatForCausalLM"),
        (NANOCHAT | {"norm": "rmsnorm"}, OWN),
        ({"norm": "rmsnorm"}, OWN),
        ({"position": "alibi"}, OWN),
    ],
)
def test_which_class_holds_a_model(switches: dict[str, Any], name: str) -> None:
    assert format_of(config_of(switches)) == name


def test_why_no_class_does() -> None:
    misfits = native_misfits(config_of(LLAMA | {"qk_norm": True}))
    assert next(iter(misfits.items())) == ("LlamaForCausalLM", ["qk_norm = False (not True)"])
    assert misfits["Qwen3ForCausalLM"] == ["bias = False (not True)"]
    assert OWN not in misfits
    assert native_misfits(config_of({"norm_eps": 1e-2, "norm_order": "post"}))["OPTForCausalLM"] == [
        "norm_eps = 1e-05 (not 0.01)"
    ]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("switch", TABLES)
def test_no_class_takes_a_part_for_another(switch: str, name: str, claim: Claim) -> None:
    assert FORMATS[name].misfits(claim(config_of({}), **{switch: "new"}))


def test_parts_that_no_class_has_are_named(claim: Claim) -> None:
    with pytest.raises(ExportError) as caught:
        format_of(claim(config_of({}), norm="new", mlp="newer"))
    assert str(caught.value) == (
        "no class of transformers holds this model, and src/gptlab/formats/huggingface/modeling_gptlab.py lacks "
        "norm = new, mlp = newer; add the class there, and its line in NORMS and MLPS"
    )
    assert MODELING.is_file()
    assert MODELING.as_posix().endswith("src/gptlab/formats/huggingface/modeling_gptlab.py")


def test_every_combination_has_a_class_and_its_tensors_come_back(gpt: MakeGPT) -> None:
    held = Counter()
    for switches in COMBINATIONS:
        name = format_of(config_of(switches))
        held[name] += 1
        if name == OWN and held[name] % 19:
            continue  # it renames nothing
        model = gpt(**switches, n_layer=1, n_head=4, n_embd=16, context=6, vocab_size=11)
        config, state, form = model.config, model.state_dict(), FORMATS[name]
        back = form.state(dict(form.tensors(state, config)), config)
        assert back.keys() == state.keys()
        for key, tensor in back.items():
            if form.exact:
                assert torch.equal(tensor, state[key]), (name, key)
            else:
                torch.testing.assert_close(tensor, state[key], rtol=1e-6, atol=1e-6)
    assert held.keys() == FORMATS.keys()  # none is there for nothing


@pytest.mark.parametrize(("name", "switches"), of_each_native_format(4))
def test_transformers_class_computes_the_same(name: str, switches: dict[str, Any], gpt: MakeGPT) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    eps = {} if name == "OPTForCausalLM" else {"norm_eps": 1e-3}
    model = gpt(**switches, **eps, n_head=4, n_embd=32, context=12, vocab_size=29, rope_theta=300.0)
    form, config = FORMATS[name], model.config
    keys = {**form.config(config), **form.free, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 1}
    theirs = AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys)).eval()
    assert type(theirs).__name__ == name
    tensors = dict(form.tensors(model.state_dict(), config))
    head = {"lm_head.weight"} if config.tie_embeddings else set()
    assert theirs.state_dict().keys() - head == tensors.keys()
    theirs.load_state_dict(tensors, strict=False)
    theirs.tie_weights()
    ids = torch.randint(29, (2, 12))
    with torch.inference_mode():
        logits = model(ids)
        assert logits.std() > 0.5  # else agreement says little
        torch.testing.assert_close(theirs(input_ids=ids).logits, logits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_a_tensor_that_would_be_lost_is_refused(name: str, gpt: MakeGPT) -> None:
    switches = next(switches for switches in COMBINATIONS if format_of(config_of(switches)) == name)
    model = gpt(**switches, n_layer=1, n_head=4, n_embd=16, context=6, vocab_size=11)
    form = FORMATS[name]
    tensors = dict(form.tensors(model.state_dict(), model.config))
    first = next(iter(tensors))
    with pytest.raises(ValueError, match=f"the tensor {first} is missing"):
        form.state({key: tensors[key] for key in list(tensors)[1:]}, model.config)
    with pytest.raises(ValueError, match="no place for the tensor extra"):
        form.state(tensors | {"extra": tensors[first]}, model.config)
    with pytest.raises(AssertionError, match="pieces holds none of"):
        dict(form.tensors(model.state_dict() | {"extra": torch.zeros(2)}, model.config))
    constants = [piece.theirs for piece in form.pieces(model.config) if isinstance(piece, Constant)]
    for key in constants[:1]:
        with pytest.raises(ValueError, match=f"cannot hold the tensor {key} as it is"):
            form.state(tensors | {key: tensors[key] + 0.5}, model.config)
