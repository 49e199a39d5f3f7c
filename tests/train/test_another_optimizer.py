"""Another optimizer is a file and a line: here plain SGD, whose matrices and vectors have peaks of their own."""

import subprocess
import sys

import pytest

SCRIPT = """
import math
import sys
from dataclasses import dataclass
from typing import Literal

import torch

from gptlab.train import optim


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    name: Literal["sgd"] = "sgd"
    '''The optimizer.'''
    lr: float = 0.1
    '''Peak learning rate of the matrices.'''
    vector_lr: float = 0.01
    '''Peak learning rate of the rest.'''


def sgd(model, config):
    groups = [
        {"params": [p for p in model.parameters() if p.ndim == 2], "lr": config.lr},
        {"params": [p for p in model.parameters() if p.ndim < 2], "lr": config.vector_lr},
    ]
    return torch.optim.SGD(groups)


optim.OPTIMIZERS["sgd"] = optim.Kind(SGDConfig, sgd)
optim.OptimConfig = optim.OptimConfig | SGDConfig

from gptlab import cli

sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def gptlab(tmp_path):
    (tmp_path / "with_sgd.py").write_text(SCRIPT)

    def run(*words):
        command = [sys.executable, tmp_path / "with_sgd.py", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_recipe_names_it_and_trains_and_continues(gptlab, tiny_recipe, tmp_path):
    flags = ("--optim.name", "sgd", "--optim.vector-lr", "0.02", "--train.steps", 2)
    code, out, err = gptlab("train", tiny_recipe, *flags, "--out", tmp_path / "run")
    assert code == 0, err
    assert 'name = "sgd"\nlr = 0.1\nvector_lr = 0.02\n' in (tmp_path / "run" / "config.toml").read_text()
    code, out, err = gptlab("train", "--train.steps", 3, "--out", tmp_path / "run")
    assert "finished, 3 steps" in out, err


def test_keys_of_another_kind_are_refused(gptlab, tiny_recipe, tmp_path):
    for flags, complaint in (
        (("--optim.vector-lr", "0.02"), "optim.vector_lr: there is no such key; known are name, lr, betas"),
        (
            ("--optim.name", "sgd", "--optim.eps", "1e-3"),
            "optim.eps: there is no such key; known are name, lr, vector_lr",
        ),
    ):
        code, _, err = gptlab("train", tiny_recipe, *flags, "--out", tmp_path / "run")
        assert code == 1
        assert complaint in err
    recipe = tmp_path / "other.toml"
    recipe.write_text('[optim]\nname = "lion"\n')
    code, _, err = gptlab("config", tiny_recipe, recipe)
    assert (code, err) == (1, 'gptlab config: optim.name = \'lion\': must be "adamw" or "sgd"\n')
