import pytest
import torch
from torch import nn

from gptlab.eval.packed import PackedProducts, packed
from gptlab.model.gpt import GPT, ModelConfig

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": 32, "vocab_size": 257}


@pytest.mark.parametrize("change", [{}, {"tie_embeddings": False, "bias": False, "mlp": "swiglu"}])
def test_the_numbers_stay_the_same(change):
    torch.manual_seed(0)
    model, ids = GPT(ModelConfig(**SHAPE | change)), torch.arange(60).reshape(3, 20)
    with torch.inference_mode():
        plain = model(ids)
        with packed(model):
            torch.testing.assert_close(model(ids), plain, atol=1e-5, rtol=1e-5)
        assert torch.equal(model(ids), plain)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_every_product_with_a_weight_of_the_model_is_taken(monkeypatch):
    model = GPT(ModelConfig(**SHAPE))
    products = packed(model)
    assert isinstance(products, PackedProducts)
    with torch.no_grad(), products:
        model.blocks[0].attention.qkv.weight.zero_()  # not seen by the copy
        assert model.blocks[0].attention.qkv(torch.ones(1, 1, 64)).abs().sum() > 0
        other = nn.Linear(64, 3)
        assert torch.equal(
            other(torch.ones(64)), torch.nn.functional.linear(torch.ones(64), other.weight, other.bias)
        )


def test_what_is_not_float32_is_left_alone():
    assert not isinstance(packed(GPT(ModelConfig(**SHAPE)).bfloat16()), PackedProducts)
