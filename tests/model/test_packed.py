"""Packed weights: the same numbers and the model's own tensors, wherever torch has packed products."""

import pytest
import torch
from torch import nn

from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.mlp import ACTIVATIONS, Activated
from gptlab.model.packed import PackedLinear, packed

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": 32, "vocab_size": 97}
VARIANTS = [
    {},
    {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "n_kv_head": 2, "bias": False},
    {"mlp": "relu2", "position": "alibi"},
    {
        "mlp": "gelu_erf",
        "tie_embeddings": False,
        "logit_soft_cap": 5.0,
        "qk_norm": True,
        "norm_order": "post",
    },
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: ",".join(variant) or "gpt2")
def model(request):
    torch.manual_seed(0)
    model = GPT(ModelConfig(**SHAPE, **request.param)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def ids():
    return torch.randint(97, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def no_onednn(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


def read_in_parts(model, ids):
    """Read a prompt, one token and the rest with a cache."""
    cache = model.new_cache(len(ids), 20)
    parts = [model.head(model.hidden_states(part, cache)) for part in (ids[:, :7], ids[:, 7:8], ids[:, 8:])]
    return torch.cat(parts, 1)


def products_of(model):
    """Return the layers that multiply with a copy, including a tied head."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@torch.inference_mode()
def test_the_numbers_stay_the_same(model, ids):
    twin, expected = packed(model), model(ids)
    assert type(twin) is GPT
    torch.testing.assert_close(twin(ids), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read_in_parts(twin, ids), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(twin(ids).argmax(-1), expected.argmax(-1))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [*ACTIVATIONS, "mish"])
def test_an_activation_that_onednn_lacks_follows_the_product(name, dtype, monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "mish", nn.functional.mish)
    layer, x = Activated(64, 96, bias=True, activation=name), torch.randn(5, 64)
    twin = packed(nn.Sequential(layer), dtype)
    with torch.inference_mode():
        expected = layer(x)
        close = 1e-5 if dtype == torch.float32 else 0.02
        torch.testing.assert_close(twin(x), expected, atol=close, rtol=close)
    assert isinstance(twin[0], PackedLinear)


@torch.inference_mode()
def test_sixteen_bits_are_near_it(model, ids):
    expected, twin = model(ids), packed(model, torch.bfloat16)
    logits = read_in_parts(twin, ids)
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).abs().mean() < 0.05 * expected.std()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = model(ids)
    assert (logits - expected).norm() < 1.2 * (autocast - expected).norm()


@torch.inference_mode()
def test_without_onednn_only_the_cast_is_done_once(model, ids, no_onednn):
    assert packed(model) is model
    twin = packed(model, torch.bfloat16)
    assert all(layer._weight.dtype == torch.bfloat16 for layer in products_of(twin))
    assert 0 < (twin(ids) - model(ids)).norm() < 0.05 * model(ids).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_product_is_one_with_a_copy(model, ids, dtype):
    twin = packed(model, dtype)
    layers = products_of(twin)
    assert all(isinstance(layer, PackedLinear) for layer in layers)
    assert len(layers) == len(products_of(model)) + (model.unembed is None)
    with torch.no_grad():  # throughout, as a processor may use other kernels with gradients
        expected = twin(ids)
        for layer in products_of(model):
            layer.weight.zero_()  # not seen by the copy
        if model.unembed is not None:
            assert torch.equal(twin(ids), expected)


def test_the_tensors_are_the_models_own(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    twin = packed(model, torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(isinstance(layer, PackedLinear) for layer in products_of(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    storage = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in twin.parameters()} == storage
    assert list(twin.blocks[0].attention._position) == [twin.position]


def test_what_is_packed_stays_so(model):
    twin = packed(model, torch.bfloat16)
    assert packed(twin, torch.bfloat16) is twin
    again = packed(twin, torch.float16)
    assert {layer.dtype for layer in products_of(again)} == {torch.float16}
    assert packed(model.bfloat16()) is model


def test_without_torchs_private_products_nothing_is_packed(model, monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert packed(model) is model


def test_models_of_others():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    model, ids = transformers.LlamaForCausalLM(config).eval(), torch.arange(20)[None]
    twin = packed(model)
    with torch.inference_mode():
        torch.testing.assert_close(twin(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert isinstance(twin.lm_head, PackedLinear) == torch.backends.mkldnn.is_available()
