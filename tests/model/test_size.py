import pytest
import torch

from gptlab.model.gpt import GPT, SIZES, ModelConfig
from gptlab.model.size import measure

PARAMETERS = {
    "gpt2-124m": 124_439_808,
    "gpt2-350m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_gpt2s_sizes_are_published_ones(name: str) -> None:
    assert measure(ModelConfig(**SIZES[name])).parameters == PARAMETERS[name]


def test_a_size_is_that_of_the_built_model() -> None:
    config = ModelConfig(**SIZES["tiny"], vocab_size=300, n_kv_head=2, mlp="swiglu", tie_embeddings=False)
    size, model = measure(config), GPT(config)
    assert size.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert size.embedding_and_head == 2 * 300 * 128 + 128 * 128
    assert size.non_embedding == size.parameters - size.embedding_and_head


def test_a_tied_head_counts_once() -> None:
    tied, untied = (ModelConfig(tie_embeddings=tie) for tie in (True, False))
    assert measure(untied).parameters - measure(tied).parameters == 50257 * 768
    assert measure(untied).flops_per_token == measure(tied).flops_per_token


def test_flops_of_gpt2_small_are_palms() -> None:
    # PaLM, appendix B: 6 N + 12 L H Q T, where N excludes lookups, biases and norms.
    matrices = 12 * 12 * 768**2 + 50257 * 768
    assert measure(ModelConfig()).flops_per_token == 6 * matrices + 12 * 12 * 12 * 64 * 1024


def test_measuring_allocates_nothing() -> None:
    before = torch.random.get_rng_state()
    measure(ModelConfig(n_layer=96, n_head=96, n_embd=12288, context=2048))
    assert torch.equal(before, torch.random.get_rng_state())
