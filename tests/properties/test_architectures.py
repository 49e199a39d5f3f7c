"""Every entry of every table, and every switch, put through the checks of `gptlab check`."""

import random
from dataclasses import replace

import pytest
import torch

from gptlab.model.check import CHECKS, run_checks
from gptlab.model.gpt import GPT, NORM_ORDERS, ModelConfig
from gptlab.model.mlp import MLPS
from gptlab.model.norm import NORMS
from gptlab.model.position import POSITIONS

BASE = ModelConfig(n_layer=2, n_head=4, n_embd=64, context=64, vocab_size=257)
SWITCHES = {
    "norm": list(NORMS),
    "norm_order": list(NORM_ORDERS),
    "position": list(POSITIONS),
    "mlp": list(MLPS),
    "n_kv_head": [None, 2, 1],
    "bias": [True, False],
    "tie_embeddings": [True, False],
    "embed_norm": [False, True],
    "qk_norm": [False, True],
    "logit_soft_cap": [None, 15.0],
    "residual_init": ["small", "zero"],
}
ONE_AT_A_TIME = [(name, value) for name, values in SWITCHES.items() for value in values]


def random_config(seed: int) -> ModelConfig:
    draw = random.Random(seed)
    return replace(BASE, **{name: draw.choice(values) for name, values in SWITCHES.items()})


def assert_sound(config: ModelConfig) -> None:
    failed = [result for result in run_checks(config) if not result.passed]
    assert not failed, failed


@pytest.mark.parametrize(("name", "value"), ONE_AT_A_TIME)
def test_every_entry_of_every_table_is_sound(name, value):
    assert_sound(replace(BASE, **{name: value}))


@pytest.mark.parametrize("seed", range(6))
def test_switches_are_independent(seed):
    assert_sound(random_config(seed))


@pytest.mark.parametrize("seed", range(6))
def test_weights_survive_a_round_trip(seed):
    config = random_config(100 + seed)
    torch.manual_seed(seed)
    model, other = GPT(config), GPT(config)
    other.load_state_dict(model.state_dict())
    ids = torch.randint(257, (2, 32))
    assert torch.equal(model(ids), other(ids))


def test_all_checks_ran():
    assert {result.name for result in run_checks(BASE)} == set(CHECKS)
