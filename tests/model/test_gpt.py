"""The network against transformers' GPT-2 and Llama, and its own promises."""

import itertools

import pytest
import torch
from torch import Tensor

from gptlab.model.gpt import GPT, SIZES, ModelConfig, init_weights, recomputed, run_block, soft_cap
from gptlab.model.size import measure

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "context": 24, "vocab_size": 61}
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False}


def theirs_of(model: GPT):
    """Build transformers' model with the same shape and weights, and the names that map to ours."""
    import transformers

    c = model.config
    if c.position == "learned":
        config = transformers.GPT2Config(
            n_layer=c.n_layer,
            n_head=c.n_head,
            n_embd=c.n_embd,
            n_positions=c.context,
            vocab_size=c.vocab_size,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=c.tie_embeddings,
        )
        theirs = transformers.GPT2LMHeadModel(config)
        names = {"transformer.wte.weight": "embed.weight", "transformer.wpe.weight": "position.weight"}
        names |= {f"transformer.ln_f.{part}": f"norm.{part}" for part in ("weight", "bias")}
        pairs = {
            "ln_1": "norm1",
            "ln_2": "norm2",
            "attn.c_attn": "attention.qkv",
            "attn.c_proj": "attention.out",
        }
        pairs |= {"mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}
        for layer, (their, our) in itertools.product(range(c.n_layer), pairs.items()):
            for part in ("weight", "bias"):
                names[f"transformer.h.{layer}.{their}.{part}"] = f"blocks.{layer}.{our}.{part}"
    else:
        config = transformers.LlamaConfig(
            num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head,
            num_key_value_heads=c.kv_heads,
            hidden_size=c.n_embd,
            intermediate_size=c.mlp_width,
            max_position_embeddings=c.context,
            vocab_size=c.vocab_size,
            rms_norm_eps=c.norm_eps,
            tie_word_embeddings=c.tie_embeddings,
        )
        theirs = transformers.LlamaForCausalLM(config)
        names = {"model.embed_tokens.weight": "embed.weight", "model.norm.weight": "norm.weight"}
        pairs = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
        pairs |= {"self_attn.o_proj": "attention.out"}
        pairs |= {f"mlp.{part}_proj": f"mlp.{part}" for part in ("gate", "up", "down")}
        for layer, (their, our) in itertools.product(range(c.n_layer), pairs.items()):
            names[f"model.layers.{layer}.{their}.weight"] = f"blocks.{layer}.{our}.weight"
    if not c.tie_embeddings:
        names["lm_head.weight"] = "unembed.weight"
    return theirs.eval(), names


def qkv_of(theirs, layer: int, kind: str) -> Tensor:
    """Stack Llama's three projections, or their gradients, into our single one."""
    attention = theirs.model.layers[layer].self_attn
    parts = [getattr(attention, f"{name}_proj").weight for name in "qkv"]
    return torch.cat([part.grad if kind == "grad" else part.data for part in parts])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "switches",
    [{}, LLAMA, {**LLAMA, "n_kv_head": 2}, {**LLAMA, "n_kv_head": 1}],
    ids=["gpt2", "llama", "gqa", "mqa"],
)
def test_logits_and_gradients_are_those_of_transformers(switches, tied):
    torch.manual_seed(0)
    ours = GPT(ModelConfig(**SHAPE, **switches, tie_embeddings=tied))
    for parameter in ours.parameters():  # gains and biases too, whose initial values hide mistakes
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs, names = theirs_of(ours)
    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    turned = "transformer.h"  # GPT-2's matrices are stored transposed
    with torch.no_grad():
        for their, our in names.items():
            weight = own[our].data
            other[their].copy_(weight.T if their.startswith(turned) and weight.ndim == 2 else weight)
        if switches:
            for layer in range(ours.config.n_layer):
                attention = theirs.model.layers[layer].self_attn
                rows = [attention.q_proj.weight.shape[0], *2 * [attention.k_proj.weight.shape[0]]]
                parts = own[f"blocks.{layer}.attention.qkv.weight"].split(rows)
                for name, part in zip("qkv", parts, strict=True):
                    getattr(attention, f"{name}_proj").weight.copy_(part)

    ids = torch.randint(61, (3, 24))
    logits, expected = ours(ids), theirs(input_ids=ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)

    weights = torch.randn_like(logits) / logits.numel()
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    checked = set()
    for their, our in names.items():
        gradient = other[their].grad
        gradient = gradient.T if their.startswith(turned) and gradient.ndim == 2 else gradient
        torch.testing.assert_close(own[our].grad, gradient, rtol=0, atol=1e-5)
        checked.add(our)
    if switches:
        for layer in range(ours.config.n_layer):
            name = f"blocks.{layer}.attention.qkv.weight"
            torch.testing.assert_close(own[name].grad, qkv_of(theirs, layer, "grad"), rtol=0, atol=1e-5)
            checked.add(name)
    assert checked == own.keys()


def mpt_of(model: GPT):
    """Build transformers' MPT, which has no biases, and the names that map to ours."""
    import transformers

    c = model.config
    config = transformers.MptConfig(
        n_layers=c.n_layer, n_heads=c.n_head, d_model=c.n_embd, max_seq_len=c.context, vocab_size=c.vocab_size
    )
    names = {"transformer.wte.weight": "embed.weight", "transformer.norm_f.weight": "norm.weight"}
    pairs = {
        "norm_1": "norm1",
        "norm_2": "norm2",
        "attn.Wqkv": "attention.qkv",
        "attn.out_proj": "attention.out",
    }
    pairs |= {"ffn.up_proj": "mlp.up", "ffn.down_proj": "mlp.down"}
    for layer, (their, our) in itertools.product(range(c.n_layer), pairs.items()):
        names[f"transformer.blocks.{layer}.{their}.weight"] = f"blocks.{layer}.{our}.weight"
    return transformers.MptForCausalLM(config).eval(), names


def bloom_of(model: GPT):
    """Build transformers' BLOOM, whose embeddings are normalised, and the names that map to ours."""
    import transformers

    c = model.config
    config = transformers.BloomConfig(
        n_layer=c.n_layer, n_head=c.n_head, hidden_size=c.n_embd, vocab_size=c.vocab_size
    )
    names = {"transformer.word_embeddings.weight": "embed.weight"}
    pairs = {"transformer.ln_f": "norm", "transformer.word_embeddings_layernorm": "embed_norm"}
    inner = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2"}
    inner |= {"self_attention.query_key_value": "attention.qkv", "self_attention.dense": "attention.out"}
    inner |= {"mlp.dense_h_to_4h": "mlp.up", "mlp.dense_4h_to_h": "mlp.down"}
    for layer, (their, our) in itertools.product(range(c.n_layer), inner.items()):
        pairs[f"transformer.h.{layer}.{their}"] = f"blocks.{layer}.{our}"
    for their, our in pairs.items():
        names |= {f"{their}.{part}": f"{our}.{part}" for part in ("weight", "bias")}
    return transformers.BloomForCausalLM(config).eval(), names


@pytest.mark.parametrize("n_head", [4, 6])  # a power of two and none
@pytest.mark.parametrize(
    ("build", "switches"),
    [(mpt_of, {"bias": False, "mlp": "gelu_erf"}), (bloom_of, {"embed_norm": True})],
    ids=["mpt", "bloom"],
)
def test_alibis_logits_and_gradients_are_those_of_transformers(build, switches, n_head):
    torch.manual_seed(0)
    shape = SHAPE | {"n_head": n_head, "n_embd": 8 * n_head}
    ours = GPT(ModelConfig(**shape, **switches, position="alibi"))
    for parameter in ours.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    theirs, names = build(ours)
    own, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert sorted(names.values()) == sorted(own)
    assert names.keys() == other.keys()

    def their_rows(tensor, their):
        # BLOOM's rows have the order (head, q or k or v, channel).
        if "query_key_value" not in their:
            return tensor
        return tensor.unflatten(0, (3, n_head, -1)).transpose(0, 1).flatten(0, 2)

    with torch.no_grad():
        for their, our in names.items():
            other[their].copy_(their_rows(own[our].data, their))
    ids = torch.randint(61, (3, 24))
    logits, expected = ours(ids), theirs(input_ids=ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    weights = torch.randn_like(logits) / logits.numel()
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    for their, our in names.items():
        torch.testing.assert_close(their_rows(own[our].grad, their), other[their].grad, rtol=0, atol=1e-5)


def test_as_many_key_value_heads_as_heads_is_multi_head():
    torch.manual_seed(0)
    grouped, multi = (GPT(ModelConfig(**SHAPE, n_kv_head=n)) for n in (4, None))
    multi.load_state_dict(grouped.state_dict())
    ids = torch.randint(61, (2, 24))
    assert torch.equal(grouped(ids), multi(ids))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-350m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
    ],
)
def test_sizes_are_openais(name, parameters):
    assert measure(ModelConfig(**SIZES[name])).parameters == parameters


def test_the_defaults_are_gpt2_small():
    assert measure(ModelConfig()).parameters == 124_439_808


def test_weights_start_by_their_role():
    torch.manual_seed(0)
    model = GPT(ModelConfig(**{**SHAPE, "n_embd": 128}, mlp="swiglu", tie_embeddings=False))
    spread = {name: p.std().item() for name, p in model.named_parameters()}
    residual = 0.02 / 4**0.5
    for name in ("embed", "unembed", "blocks.0.attention.qkv", "blocks.1.mlp.gate", "blocks.1.mlp.up"):
        assert spread[f"{name}.weight"] == pytest.approx(0.02, rel=0.05)
    for name in ("blocks.0.attention.out", "blocks.1.mlp.down"):
        assert spread[f"{name}.weight"] == pytest.approx(residual, rel=0.05)
    assert all((p == 1).all() for name, p in model.named_parameters() if "norm" in name and "weight" in name)
    assert all((p == 0).all() for name, p in model.named_parameters() if name.endswith("bias"))


def test_blocks_that_begin_as_the_identity():
    torch.manual_seed(0)
    plain_model, model = (GPT(ModelConfig(**SHAPE, residual_init=start)) for start in ("small", "zero"))
    ids = torch.randint(61, (2, 24))
    x = model.position.embed(model.embed(ids), 0)
    assert torch.equal(model.hidden_states(ids), model.norm(x))
    assert not torch.equal(plain_model.hidden_states(ids), plain_model.norm(x))
    assert not any(
        model.get_parameter(f"blocks.{n}.{part}.weight").any() for n in (0, 1) for part in RESIDUAL
    )


RESIDUAL = ("attention.out", "mlp.down")


def test_a_norm_after_the_embedding():
    torch.manual_seed(0)
    model = GPT(ModelConfig(**SHAPE, embed_norm=True, residual_init="zero"))
    ids = torch.randint(61, (2, 24))
    x = model.position.embed(model.embed(ids), 0)
    normal = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    assert torch.allclose(model.hidden_states(ids), model.norm(normal), atol=1e-5)
    assert torch.allclose(model.embed_norm(x), normal, atol=1e-5)


def test_a_parameter_without_a_role_is_refused():
    model = GPT(ModelConfig(**SHAPE))
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"extra\.weight"):
        init_weights(model)


def test_recomputed_blocks_give_the_same_gradients():
    torch.manual_seed(0)
    model = GPT(ModelConfig(**SHAPE))
    ids = torch.randint(61, (2, 24))
    gradients = []
    for run in (run_block, recomputed):
        model.zero_grad()
        model.hidden_states(ids, run=run).square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(kept, again) for kept, again in zip(*gradients, strict=True))


def test_post_norm_is_the_sum_normalised():
    torch.manual_seed(0)
    model = GPT(ModelConfig(**{**SHAPE, "n_layer": 1}, norm_order="post"))
    ids = torch.randint(61, (2, 24))
    block = model.blocks[0]
    x = model.position.embed(model.embed(ids), 0)
    x = block.norm1(x + block.attention(x))
    expected = block.norm2(x + block.mlp(x)) @ model.embed.weight.T
    torch.testing.assert_close(model(ids), expected)


def test_soft_cap_bounds_the_logits():
    logits = torch.tensor([-1e6, -1.0, 0.0, 1.0, 1e6])
    capped = soft_cap(logits, 15.0)
    assert capped.abs().max() <= 15
    torch.testing.assert_close(capped[1:4], logits[1:4], rtol=2e-3, atol=0)
    assert soft_cap(logits, None) is logits


def test_a_tied_head_is_in_a_checkpoint_once():
    assert "unembed.weight" not in GPT(ModelConfig(**SHAPE)).state_dict()
    assert "unembed.weight" in GPT(ModelConfig(**SHAPE, tie_embeddings=False)).state_dict()


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"n_head": 5}, "n_head = 5 does not divide n_embd = 32"),
        ({"n_kv_head": 3}, "n_kv_head = 3 does not divide n_head = 4"),
        ({"n_embd": 12, "position": "rope"}, "multiple of 2"),
        ({"n_layer": 0}, "n_layer = 0"),
        ({"logit_soft_cap": -1.0}, "logit_soft_cap"),
    ],
)
def test_contradictions_are_refused(switches, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{**SHAPE, **switches})


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="context = 24"):
        GPT(ModelConfig(**SHAPE)).hidden_states(torch.zeros(1, 25, dtype=torch.int64))
