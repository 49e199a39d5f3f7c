"""Muon: against torch's own, a plain loop, and the singular value decomposition."""

import json

import pytest
import torch
from torch import Tensor

from gptlab import recipe
from gptlab.actions.anneal import annealed
from gptlab.errors import CheckpointError
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.model.size import measure
from gptlab.runs import checkpoint
from gptlab.runs.tensor_file import in_memory
from gptlab.train import muon
from gptlab.train.adamw import AdamWConfig
from gptlab.train.muon import COEFFICIENTS, MuonConfig, orthogonalised
from gptlab.train.optim import (
    build_optimizer,
    check_optimizer_state,
    optimizer_state,
    state_bytes,
    state_bytes_to_come,
)

CONFIG = MuonConfig(lr=0.03, weight_decay=0.2, momentum=0.9)


def gpt(**switches: object) -> GPT:
    torch.manual_seed(1)
    shape = {"n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "context": 8, "vocab_size": 31}
    return GPT(ModelConfig(**{**shape, **switches}))  # pyright: ignore[reportArgumentType]


def gradients(model: GPT, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)


def learn(model: GPT, config: MuonConfig, steps: int = 4) -> GPT:
    optimizer = build_optimizer(model, config)
    for step in range(steps):
        gradients(model, step)
        optimizer.step()
    return model


def separate(name: str, tensor: Tensor) -> list[Tensor]:
    """Return the matrices that a parameter of the model above holds."""
    return list(tensor.split((32, 16, 16))) if name.endswith("qkv.weight") else [tensor]


def matrices(model: GPT) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2]


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_is_torchs_muon_but_for_the_rounding_of_its_products(nesterov: bool):
    """torch multiplies in bfloat16, with a relative error of 2^-9 each; here five rounds of three products."""
    ours, start = learn(gpt(), MuonConfig(lr=0.03, weight_decay=0.2, nesterov=nesterov)), gpt()
    for name, parameter in matrices(ours):
        for number, (found, first) in enumerate(
            zip(separate(name, parameter), separate(name, start.get_parameter(name)), strict=True)
        ):
            theirs = torch.nn.Parameter(first.detach().clone())
            optimizer = torch.optim.Muon([theirs], lr=0.03, weight_decay=0.2, nesterov=nesterov)
            for step in range(4):
                gradients(start, step)
                gradient = start.get_parameter(name).grad
                assert gradient is not None
                theirs.grad = separate(name, gradient)[number].clone()
                optimizer.step()
            moved, moves = found - first, theirs - first
            assert (moved - moves).norm() < 0.02 * moves.norm(), name


def test_it_is_a_plain_loop_in_double_precision():
    ours, start = learn(gpt(), CONFIG), gpt()
    for name, parameter in matrices(ours):
        for number, found in enumerate(separate(name, parameter)):
            weight = separate(name, start.get_parameter(name))[number].detach().double()
            mean = torch.zeros_like(weight)
            for step in range(4):
                gradients(start, step)
                whole = start.get_parameter(name).grad
                assert whole is not None
                gradient = separate(name, whole)[number].double()
                mean = 0.9 * mean + 0.1 * gradient
                x = 0.1 * gradient + 0.9 * mean
                x = x / x.norm()
                for a, b, c in COEFFICIENTS:
                    x = a * x + b * x @ x.T @ x + c * x @ x.T @ x @ x.T @ x
                rows, columns = weight.shape
                weight = weight * (1 - 0.03 * 0.2) - 0.03 * max(1, rows / columns) ** 0.5 * x
            assert torch.allclose(found.double(), weight, atol=2e-6), name


@pytest.mark.parametrize("shape", [(48, 48), (96, 24), (24, 96)])
def test_singular_values_end_near_one_and_singular_vectors_stay(shape: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *shape, generator=generator) * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    found = orthogonalised(x)
    core = left.mT @ found @ right.mT
    inside = values / x.norm(dim=(1, 2))[:, None] > 0.003
    diagonal = core.diagonal(dim1=1, dim2=2)
    assert ((diagonal[inside] > 0.67) & (diagonal[inside] < 1.2)).all()
    assert inside.float().mean() > 0.9
    assert (core - torch.diag_embed(diagonal)).abs().max() < 1e-4


def test_a_gradient_of_zeros_moves_nothing():
    assert not orthogonalised(torch.zeros(2, 8, 4)).any()


def test_how_many_are_worked_on_together_does_not_matter(monkeypatch: pytest.MonkeyPatch):
    together = learn(gpt(), CONFIG)
    monkeypatch.setattr(muon, "MOST_ELEMENTS", 1)
    alone = learn(gpt(), CONFIG)
    for (name, one), other in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6), name


def test_cautious_decay_shrinks_only_what_the_step_shrinks_too():
    start = gpt()
    free, cautious = (
        learn(gpt(), MuonConfig(lr=0.03, decay="cautious", weight_decay=decay), steps=1)
        for decay in (0.0, 0.2)
    )
    for name, first in matrices(start):
        step, found = free.get_parameter(name) - first, cautious.get_parameter(name)
        shrinks = step * first < 0
        expected = free.get_parameter(name) - torch.where(
            shrinks, 0.03 * 0.2 * first, torch.zeros_like(first)
        )
        assert torch.allclose(found, expected, atol=1e-7), name
        assert 0.2 < shrinks.float().mean() < 0.8


@pytest.mark.parametrize("width", [64, 256])
def test_a_step_changes_the_outputs_by_the_same_amount_at_every_width(width: int):
    """So that a rate carries over: the outputs of a full-rank input move by about the rate."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((width, width), (4 * width, width), (width, 4 * width)):
        direction = orthogonalised(torch.randn(1, rows, columns, generator=generator))[0]
        x = torch.randn(columns, 64, generator=generator)
        outputs = max(1, rows / columns) ** 0.5 * direction @ x
        assert outputs.square().mean().sqrt() == pytest.approx(0.9, abs=0.15)


def test_each_group_has_its_own_rate_and_every_other_parameter_adamw():
    model = gpt(tie_embeddings=False)
    config = MuonConfig(lr=1.0, embedding_lr=2.0, head_lr=3.0, vector_lr=4.0, weight_decay=0.5)
    optimizer = build_optimizer(model, config)
    rates = {parameter: group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    decays = {
        parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        vector = parameter.ndim == 1
        rate = 4.0 if vector else 1.0 if "blocks" in name else 3.0 if "unembed" in name else 2.0
        assert (rates[parameter], decays[parameter]) == (rate, 0.0 if vector else 0.5), name
    gradients(model, 0)
    optimizer.step()
    kept = {
        name.partition("/")[2]
        for name in optimizer_state(optimizer, dict(model.named_parameters()))
        if "qkv.weight" in name
    }
    assert kept == {"momentum"}
    assert {"embed.weight/exp_avg", "norm.weight/exp_avg_sq"} <= optimizer_state(
        optimizer, dict(model.named_parameters())
    ).keys()


def test_the_rest_is_torchs_adamw():
    ours, theirs = learn(gpt(), CONFIG), gpt()
    rest = [p for name, p in theirs.named_parameters() if (name, p) not in matrices(theirs)]
    groups = [{"params": [p], "weight_decay": 0.2 if p.ndim == 2 else 0.0} for p in rest]
    optimizer = torch.optim.AdamW(
        groups, lr=CONFIG.vector_lr, betas=CONFIG.betas, eps=CONFIG.eps, foreach=False
    )
    for step in range(4):
        gradients(theirs, step)
        optimizer.step()
    for (name, found), expected in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if "blocks" not in name or found.ndim == 1:
            assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6), name


def test_its_state_is_as_large_as_it_says():
    model = gpt()
    optimizer = build_optimizer(model, CONFIG)
    coming = state_bytes_to_come(optimizer)
    assert coming == state_bytes(CONFIG, measure(model.config).counts)
    gradients(model, 0)
    optimizer.step()
    kept = optimizer_state(optimizer, dict(model.named_parameters()))
    assert coming == sum(value.nbytes for value in kept.values() if value.ndim)
    assert state_bytes_to_come(optimizer) == 0


def test_the_state_of_adamw_is_refused():
    model = gpt()
    optimizer = build_optimizer(model, AdamWConfig())
    gradients(model, 0)
    optimizer.step()
    parts = dict(model.named_parameters())
    with pytest.raises(
        CheckpointError, match=r"another optimizer's checkpoint: keep optim\.name, or take only"
    ):
        check_optimizer_state(
            build_optimizer(model, CONFIG), model, in_memory(optimizer_state(optimizer, parts)), parts
        )


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("embedding_lr", 0.0, "embedding_lr = 0.0"),
        ("momentum", 1.0, "momentum = 1.0"),
        ("betas", (0.9, 1.0), r"betas = \(0.9, 1.0\)"),
        ("weight_decay", -1.0, "= -1.0"),
    ],
)
def test_what_cannot_be_is_refused_with_its_value(field: str, value: object, complaint: str):
    with pytest.raises(ValueError, match=complaint):
        MuonConfig(**{field: value})  # pyright: ignore[reportArgumentType]


def test_a_decay_from_a_checkpoint_starts_at_the_rates_of_all_groups(train, tmp_path):
    train(tmp_path / "run", {"optim": {"name": "muon"}, "train": {"save_every_steps": 6, "keep": 9}})
    recipes, flags = annealed(checkpoint.folder_of(tmp_path / "run", 6), [], {}, steps=4)
    optim, peaks = recipe.load(recipes, flags).optim, MuonConfig()
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    fraction = next(row["lr"] for row in rows if row["kind"] == "step" and row["step"] == 7) / peaks.lr
    assert isinstance(optim, MuonConfig)
    assert fraction < 0.7
    for name in ("lr", "embedding_lr", "head_lr", "vector_lr"):
        assert getattr(optim, name) == pytest.approx(fraction * getattr(peaks, name)), name
