"""Shared by these tests: no network, one thread, tiny models with weights far from initialisation."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gptlab.model.gpt import ModelConfig
from gptlab.sample import GeneratingGPT

os.environ["HF_HUB_OFFLINE"] = "1"

LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them only wait for each other in models of this size
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def claim() -> Callable[..., ModelConfig]:
    """Let a config name parts that somebody else has added: `claim(config, norm="new")`."""

    def change(config: ModelConfig, **parts: str) -> ModelConfig:
        for switch, name in parts.items():
            object.__setattr__(config, switch, name)
        return config

    return change


@pytest.fixture
def gpt() -> Callable[..., GeneratingGPT]:
    """Make a tiny model whose parameters all differ: `gpt(n_kv_head=1, bias=False)`."""

    def make(**switches: Any) -> GeneratingGPT:
        torch.manual_seed(3)
        sizes = {"n_layer": 2, "n_head": 6, "n_embd": 48, "context": 40, "vocab_size": 257}
        model = GeneratingGPT(ModelConfig(**(sizes | switches)))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return model

    return make
