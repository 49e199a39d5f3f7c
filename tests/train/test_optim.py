"""The optimizer: against a plain loop, and its state from one process to the next."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptlab.errors import CheckpointError
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.runs.tensor_file import in_memory
from gptlab.train.optim import (
    OPTIMIZERS,
    AdamWConfig,
    build_optimizer,
    check_optimizer_state,
    load_optimizer_state,
    optimizer_state,
    set_rate,
)

CONFIG = AdamWConfig(lr=3e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3)


def gpt(**switches: object) -> GPT:
    torch.manual_seed(1)
    return GPT(ModelConfig(n_layer=1, n_head=2, n_embd=16, context=8, vocab_size=31, **switches))  # pyright: ignore[reportArgumentType]


def learn(model: GPT, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Update with gradients that depend on the step only; a model's own would amplify rounding."""
    for step in steps:
        set_rate(optimizer, 1 / (step + 1))
        draw = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()


def parts(model: GPT) -> dict[str, Tensor]:
    return dict(model.named_parameters())


def weights(model: GPT) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def by_hand(model: GPT) -> torch.optim.Optimizer:
    """AdamW as a plain loop over parameters, each with its own decay."""
    decayed = [
        "embed.weight",
        "position.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight",
    ]
    groups = [
        {"params": [parameter], "weight_decay": 0.3 if name in decayed else 0.0, "peak": CONFIG.lr}
        for name, parameter in model.named_parameters()
    ]
    return torch.optim.AdamW(groups, lr=CONFIG.lr, betas=(0.8, 0.9), eps=1e-6, fused=False, foreach=False)


def test_twenty_steps_are_those_of_torchs_plain_adamw_with_matrices_decayed_only():
    ours, theirs = gpt(), gpt()
    learn(ours, build_optimizer(ours, CONFIG), range(20))
    learn(theirs, by_hand(theirs), range(20))
    for name, value in weights(theirs).items():
        assert torch.allclose(weights(ours)[name], value, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_optimizer_holds_every_parameter_once(name: str, tied: bool):
    model = gpt(tie_embeddings=tied)
    config = OPTIMIZERS[name].config()
    optimizer, decay = build_optimizer(model, config), getattr(config, "weight_decay", 0.0)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    assert len(held) == len(list(gpt().parameters())) + (0 if tied else 1)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group.get("weight_decay", 0.0) == (decay if parameter.ndim == 2 else 0.0)


def test_decay_alone_shrinks_matrices_by_rate_times_decay_and_vectors_not():
    model = gpt()
    before = weights(model)
    optimizer = build_optimizer(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in weights(model).items():
        factor = 1 - CONFIG.lr * CONFIG.weight_decay if value.ndim == 2 else 1.0
        assert torch.allclose(value, before[name] * factor, rtol=1e-6), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_cut_in_two_by_a_file_is_the_whole_run_bit_for_bit(name: str, tmp_path: Path):
    config = OPTIMIZERS[name].config(lr=CONFIG.lr)
    whole = gpt()
    whole_optimizer = build_optimizer(whole, config)
    learn(whole, whole_optimizer, range(8))

    first = gpt()
    first_optimizer = build_optimizer(first, config)
    learn(first, first_optimizer, range(5))
    save_file(first.state_dict(), tmp_path / "model")
    save_file(optimizer_state(first_optimizer, parts(first)), tmp_path / "optimizer")
    second = gpt()
    second.load_state_dict(load_file(tmp_path / "model"))
    second_optimizer = build_optimizer(second, config)
    load_optimizer_state(second_optimizer, in_memory(load_file(tmp_path / "optimizer")), parts(second))
    learn(second, second_optimizer, range(5, 8))

    expected, got = (
        optimizer_state(whole_optimizer, parts(whole)),
        optimizer_state(second_optimizer, parts(second)),
    )
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert all(torch.equal(value, weights(second)[key]) for key, value in weights(whole).items())


def test_the_state_carries_the_parameters_names_and_a_fresh_optimizer_has_none():
    model = gpt()
    optimizer = build_optimizer(model, CONFIG)
    assert optimizer_state(optimizer, parts(model)) == {}
    load_optimizer_state(optimizer, in_memory({}), parts(model))
    learn(model, optimizer, range(1))
    state = optimizer_state(optimizer, parts(model))
    quantities = {"step", "exp_avg", "exp_avg_sq"}
    assert state.keys() == {
        f"{name}/{quantity}" for name, _ in model.named_parameters() for quantity in quantities
    }
    assert state["embed.weight/exp_avg"].shape == (31, 16)


def test_what_is_loaded_is_a_copy_of_its_own():
    model = gpt()
    optimizer = build_optimizer(model, CONFIG)
    learn(model, optimizer, range(1))
    saved = {name: value.clone() for name, value in optimizer_state(optimizer, parts(model)).items()}
    load_optimizer_state(optimizer, in_memory(saved), parts(model))
    learn(model, optimizer, range(1))
    assert saved["norm.weight/step"] == 1
    assert optimizer_state(optimizer, parts(model))["norm.weight/step"] == 2


def test_another_models_state_is_refused_by_name():
    model = gpt()
    optimizer = build_optimizer(model, CONFIG)
    learn(model, optimizer, range(1))
    state = optimizer_state(optimizer, parts(model))
    foreign = {**state, "foreign.weight/step": torch.zeros(())}
    with pytest.raises(CheckpointError, match=r"holds foreign\.weight/step.*another model's"):
        check_optimizer_state(optimizer, model, in_memory(foreign), parts(model))
    missing = {name: value for name, value in state.items() if not name.startswith("norm.bias/")}
    with pytest.raises(CheckpointError, match=r"does not fit norm\.bias"):
        check_optimizer_state(optimizer, model, in_memory(missing), parts(model))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("lr", 0.0, "lr = 0.0"),
        ("betas", (0.9, 1.0), r"betas = \(0.9, 1.0\)"),
        ("weight_decay", -1.0, "= -1.0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(field: str, value: object, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        AdamWConfig(**{field: value})  # pyright: ignore[reportArgumentType]
