import pytest
import torch
from torch import nn

from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.packed import PackedGPT, PackedLinear, packs

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": 32, "vocab_size": 97}
VARIANTS = [
    {},
    {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "n_kv_head": 2, "bias": False},
    {"tie_embeddings": False, "logit_soft_cap": 5.0, "qk_norm": True, "norm_order": "post"},
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: ",".join(variant) or "gpt2")
def model(request):
    torch.manual_seed(0)
    model = GPT(ModelConfig(**SHAPE, **request.param)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(autouse=True)
def _only_where_it_can_be(model):
    if not packs(model, torch.float32):
        pytest.skip("this torch has no oneDNN to pack weights with")


def read_in_two(model, ids, dtype):
    cache = model.new_cache(len(ids), 20, dtype)
    parts = [model.head(model.hidden(part, cache)) for part in (ids[:, :7], ids[:, 7:8], ids[:, 8:])]
    return torch.cat(parts, 1)


@torch.inference_mode()
def test_it_is_the_same_model(model):
    ids = torch.randint(97, (3, 12))
    packed = PackedGPT(model, torch.float32)
    expected = model(ids)
    logits = read_in_two(packed, ids, torch.float32)
    assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))


@torch.inference_mode()
def test_half_as_many_bytes_are_near_it(model):
    if not packs(model, torch.bfloat16):
        pytest.skip("this processor has no bfloat16")
    ids = torch.randint(97, (3, 12))
    expected = model(ids)
    logits = read_in_two(PackedGPT(model, torch.bfloat16), ids, torch.bfloat16)
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().mean() < 0.05 * expected.std()


def test_the_model_stays_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    PackedGPT(model, torch.float32)
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_formats_that_cannot_be_packed_are_told(model):
    assert not packs(model, torch.float64)
    assert not packs(model.to("meta"), torch.float32)
