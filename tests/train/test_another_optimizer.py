"""Another optimizer takes a file and a line: here SGD with separate peaks for matrices and vectors."""

import json
import subprocess
import sys

import pytest

from gptlab.train.optim import OPTIMIZERS

SCRIPT = """
import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Literal

import torch

from gptlab.model.roles import role
from gptlab.train import optim


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    name: Literal["sgd"] = "sgd"
    '''The optimizer.'''
    lr: float = 0.1
    '''Peak learning rate of the matrices.'''
    vector_lr: float = 0.01
    '''Peak learning rate of the rest.'''


def sgd(model, parts, config):
    groups = [
        {"params": [part for name, part in parts.items() if role(name).decayed], "lr": config.lr},
        {"params": [part for name, part in parts.items() if not role(name).decayed], "lr": config.vector_lr},
    ]
    return torch.optim.SGD(groups)


optim.OPTIMIZERS["sgd"] = optim.OptimizerEntry(SGDConfig, sgd, lambda kind: 0)
optim.OptimConfig = optim.OptimConfig | SGDConfig

from gptlab import cli


def told(words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    return code, out.getvalue(), err.getvalue()


print(json.dumps([told(words) for words in json.loads(sys.argv[1])]))
"""


@pytest.fixture
def gptlab(tmp_path):
    (tmp_path / "with_sgd.py").write_text(SCRIPT)

    def run(*commands):
        """Run commands in one process; return the exit code and both outputs of each."""
        words = json.dumps([list(map(str, command)) for command in commands])
        done = subprocess.run(
            [sys.executable, tmp_path / "with_sgd.py", words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_recipe_names_it_and_trains_and_continues(gptlab, tiny_recipe, tmp_path):
    out = ("--out", tmp_path / "run")
    flags = ("--optim.name", "sgd", "--optim.vector-lr", "0.02", "--train.steps", 2)
    first, second = gptlab(("train", tiny_recipe, *flags, *out), ("train", "--train.steps", 3, *out))
    assert first[0] == 0, first
    assert 'name = "sgd"\nlr = 0.1\nvector_lr = 0.02\n' in (tmp_path / "run" / "config.toml").read_text()
    assert "finished, 3 steps" in second[1], second


def test_keys_of_another_kind_are_refused(gptlab, tiny_recipe, tmp_path):
    recipe, out = tmp_path / "other.toml", ("--out", tmp_path / "run")
    recipe.write_text('[optim]\nname = "lion"\n')
    other, ours, unknown = gptlab(
        ("train", tiny_recipe, "--optim.vector-lr", "0.02", *out),
        ("train", tiny_recipe, "--optim.name", "sgd", "--optim.eps", "1e-3", *out),
        ("config", tiny_recipe, recipe),
    )
    assert other[0] == ours[0] == 1
    assert "optim.vector_lr: there is no such key; known are name, lr, betas" in other[2]
    assert "optim.eps: there is no such key; known are name, lr, vector_lr" in ours[2]
    assert unknown[0] == 1
    known = " or ".join(f'"{name}"' for name in (*OPTIMIZERS, "sgd"))
    assert unknown[2] == f"gptlab config: optim.name = 'lion': must be {known}\n"
