"""The exported modelling file and our own network: every combination, the cache, padding, further training."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from gptlab.formats.huggingface.classes import FORMATS, MODELING, OWN, TABLES, parts
from gptlab.model.gpt import NORM_ORDERS
from gptlab.model.mlp import MLPS
from gptlab.model.norm import NORMS
from gptlab.model.position import POSITIONS
from gptlab.sample import GeneratingGPT

MakeGPT = Callable[..., GeneratingGPT]
# Switches that act in the same place are tried in every pair; the others alternate.
PAIRED = [
    dict(zip((*parts(), "bias", "qk_norm"), values, strict=True))
    for values in product(*parts().values(), [True, False], [True, False])
]
ALONE = [
    dict(zip(("n_kv_head", "tie_embeddings", "logit_soft_cap", "embed_norm"), values, strict=True))
    for values in product([None, 2, 1], [True, False], [None, 15.0], [False, True])
]


def both(gpt: MakeGPT, **switches: Any) -> tuple[GeneratingGPT, Any]:
    from gptlab.formats.huggingface.modeling_gptlab import GPTLabConfig, GPTLabForCausalLM

    model = gpt(**({"n_head": 4, "n_embd": 32, "context": 12, "vocab_size": 29} | switches))
    theirs = GPTLabForCausalLM(GPTLabConfig(**FORMATS[OWN].config(model.config))).eval()
    theirs.load_state_dict(model.state_dict())
    return model, theirs


@pytest.mark.parametrize(
    ("switch", "table"),
    {"norm": NORMS, "norm_order": NORM_ORDERS, "position": POSITIONS, "mlp": MLPS}.items(),
)
def test_the_file_has_every_part(switch: str, table: dict[str, Any]) -> None:
    lacking = sorted(table.keys() - set(parts()[switch]))
    assert not lacking, (
        f"a model with {switch} = {' or '.join(lacking)} cannot be exported: add the class to {MODELING.name}, and its "
        f"line in {TABLES[switch]} there"
    )


def test_its_tables_are_read_as_they_are() -> None:
    from gptlab.formats.huggingface import modeling_gptlab

    assert parts() == {switch: list(getattr(modeling_gptlab, table)) for switch, table in TABLES.items()}


def test_every_combination_computes_the_same(gpt: MakeGPT) -> None:
    ids = torch.randint(29, (2, 12))
    for number, switches in enumerate(PAIRED):
        model, theirs = both(gpt, **switches, **ALONE[number % len(ALONE)])
        with torch.inference_mode():
            torch.testing.assert_close(theirs(input_ids=ids).logits, model(ids), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("position", parts()["position"])
def test_the_cache_and_padding_on_the_left(position: str, gpt: MakeGPT) -> None:
    model, theirs = both(gpt, position=position, norm="rmsnorm", mlp="relu2", n_kv_head=2)
    short, long = torch.tensor([[3, 4, 5]]), torch.tensor([[7, 8, 9, 10, 11]])
    padded = torch.cat((torch.cat((torch.zeros(1, 2, dtype=torch.long), short), 1), long))
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"do_sample": False, "max_new_tokens": 7, "pad_token_id": 0, "eos_token_id": None}
    written = theirs.generate(padded, attention_mask=mask, **options)
    assert torch.equal(written[:1, 2:], model.generate(short, max_new_tokens=7, temperature=0))
    assert torch.equal(written[1:], model.generate(long, max_new_tokens=7, temperature=0))
    without = theirs.generate(long, attention_mask=mask[1:], use_cache=False, **options)
    assert torch.equal(without, written[1:])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_the_cache_has_the_name_of_every_transformers(name: str, gpt: MakeGPT) -> None:
    """Version 5.24 calls `cache` what was `past_key_values`; an unknown name would vanish into `forward`'s others."""
    from gptlab.formats.huggingface.modeling_gptlab import CACHE

    _, theirs = both(gpt, position="rope")
    ids = torch.randint(29, (2, 6))
    first = theirs(input_ids=ids[:, :4], use_cache=True)
    last = theirs(input_ids=ids[:, 4:], **{name: first[CACHE]})
    torch.testing.assert_close(last.logits, theirs(input_ids=ids).logits[:, 4:])


@pytest.mark.parametrize("tied", [True, False])
def test_it_can_be_trained_and_saved(tied: bool, gpt: MakeGPT, tmp_path: Any) -> None:
    from gptlab.formats.huggingface.modeling_gptlab import GPTLabForCausalLM
    from gptlab.formats.huggingface.read import read_ours

    model, theirs = both(gpt, norm="rmsnorm", position="learned", tie_embeddings=tied)
    ids = torch.randint(29, (4, 12))
    loss = theirs(input_ids=ids, labels=ids).loss
    expected = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None for parameter in theirs.parameters())
    theirs.save_pretrained(tmp_path)
    again = GPTLabForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(input_ids=ids).logits, theirs(input_ids=ids).logits)
    config, state = read_ours(tmp_path)
    assert config == model.config
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
