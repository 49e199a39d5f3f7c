"""Formats: what each class holds, and that the others are refused by the name of the switch."""

from itertools import product
from typing import Any

import pytest

from gptlab.errors import ExportError
from gptlab.model.gpt import NORM_ORDERS, ModelConfig
from gptlab.model.mlp import MLPS
from gptlab.model.norm import NORMS
from gptlab.model.position import POSITIONS
from gptlab.publish.huggingface.formats import FORMATS, format_of

LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu"}


@pytest.mark.parametrize(
    ("switches", "architecture"),
    [
        ({}, "GPT2LMHeadModel"),
        ({"bias": False, "n_kv_head": 2, "tie_embeddings": False, "n_hidden": 100}, "GPT2LMHeadModel"),
        (LLAMA, "LlamaForCausalLM"),
        (LLAMA | {"bias": False, "n_kv_head": 2, "tie_embeddings": False}, "LlamaForCausalLM"),
        (LLAMA | {"norm": "rmsnorm_no_gain"}, "LlamaForCausalLM"),
    ],
)
def test_which_class_holds_a_model(switches: dict[str, Any], architecture: str) -> None:
    assert format_of(ModelConfig(**switches)) == architecture


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (
            {"position": "rope"},
            r"GPT2LMHeadModel needs position = learned \(not rope\); LlamaForCausalLM needs",
        ),
        ({"position": "none"}, r"GPT2LMHeadModel needs position = learned \(not none\); "),
        ({"norm": "rmsnorm"}, r"GPT2LMHeadModel needs norm = layernorm \(not rmsnorm\); "),
        ({"mlp": "relu2"}, r"GPT2LMHeadModel needs mlp = gelu \(not relu2\); "),
        ({"norm_order": "post"}, r"GPT2LMHeadModel needs norm_order = pre \(not post\); "),
        ({"qk_norm": True}, r"GPT2LMHeadModel needs qk_norm = False \(not True\); "),
        ({"logit_soft_cap": 30.0}, r"GPT2LMHeadModel needs logit_soft_cap = no limit \(not 30.0\); "),
        (
            LLAMA | {"mlp": "gelu"},
            r"LlamaForCausalLM needs mlp = swiglu \(not gelu\); GPT2LMHeadModel needs norm",
        ),
        (LLAMA | {"qk_norm": True}, r"LlamaForCausalLM needs qk_norm = False \(not True\); GPT2LMHeadModel"),
    ],
)
def test_others_are_refused_with_the_nearest_class_first(switches: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError, match=f"^no Hugging Face class holds this model: {message}") as caught:
        format_of(ModelConfig(**switches))
    assert "\n" not in str(caught.value)


def test_every_combination_has_one_class_or_reasons() -> None:
    held = 0
    for norm, order, position, mlp in product(NORMS, NORM_ORDERS, POSITIONS, MLPS):
        config = ModelConfig(norm=norm, norm_order=order, position=position, mlp=mlp)
        fitting = [name for name, form in FORMATS.items() if not form.refusals(config)]
        assert len(fitting) < 2
        held += len(fitting)
    assert held == 3  # GPT-2, and Llama with and without gain
