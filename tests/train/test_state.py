"""Where a run stands: what goes into a checkpoint comes out of it, and another run's is refused."""

import json
import random

import numpy as np
import pytest
import torch

from gptlab.errors import CheckpointError
from gptlab.model.gpt import GPT, ModelConfig
from gptlab.train import checkpoint
from gptlab.train.config import TrainConfig
from gptlab.train.device import World
from gptlab.train.guard import Guard, GuardConfig
from gptlab.train.optim import AdamWConfig, build_optimizer
from gptlab.train.plan import Budget
from gptlab.train.skip import Skipping
from gptlab.train.state import State
from gptlab.train.step import Gradient

IDENTITY = {
    "model": {"n_layer": 1, "n_embd": 8},
    "tokenizer": {"name": "bytes", "hash": "abc"},
    "seed": 7,
    "data": "d0",
}


def state(scaled=True, identity=IDENTITY, n_embd=8):
    model = GPT(ModelConfig(n_layer=1, n_head=1, n_embd=n_embd, context=4, vocab_size=16))
    return State(
        model,
        build_optimizer(model, AdamWConfig()),
        torch.amp.GradScaler("cpu", enabled=scaled),
        Guard(GuardConfig()),
        Budget(TrainConfig(), warmup_steps=0, evaluate_every=4),
        Skipping(None),
        identity=identity,
        context=4,
        world=World(0, 1, torch.device("cpu")),
    )


def update(at):
    """Do what a step does, with something drawn from every random state."""
    at.optimizer.zero_grad()
    noise = random.random() + np.random.random() + torch.rand(()).item()
    loss = at.model(torch.randint(16, (2, 4))).square().mean() * noise
    at.scaler.scale(loss).backward()
    at.scaler.step(at.optimizer)
    at.scaler.update()
    at.guard.judge(Gradient(loss.item(), 1.0), step=at.step, sample=at.sample)
    at.step += 1
    at.tokens += 8


def facts(at):
    """Return all but the time that was used."""
    return {key: value for key, value in at.facts().items() if key != "budget"}


def save(at, run):
    folder = checkpoint.save(
        run, at.facts(), model=at.model_tensors(), optimizer=at.optimizer_tensors(), files={}
    )
    return checkpoint.load(folder)


@pytest.fixture
def begun():
    with torch.random.fork_rng(devices=[]):
        at = state()
        at.batches.skip = [(3, 5), (9, 9)]
        for _ in range(3):
            update(at)
        yield at


def test_what_goes_on_from_a_checkpoint_is_what_would_have_been(begun, tmp_path):
    found = save(begun, tmp_path)
    for _ in range(3):
        update(begun)
    again = state()
    again.guard.judge(Gradient(float("nan"), 1.0), step=0, sample=0)
    update(again)  # whatever it was before
    again.take_up(found)
    assert again.batches.skip == [(3, 5), (9, 9)]
    assert (again.step, again.tokens, again.sample) == (3, 24, 6)
    for _ in range(3):
        update(again)
    assert json.dumps(facts(again)) == json.dumps(facts(begun))
    for ours, theirs in (
        (again.model_tensors(), begun.model_tensors()),
        (again.optimizer_tensors(), begun.optimizer_tensors()),
    ):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
def test_the_number_format_may_change(tmp_path, before, after):
    first = state(scaled=before)
    update(first)
    second = state(scaled=after)
    second.take_up(save(first, tmp_path))
    assert bool(second.facts()["scaler"]) == after


def changed(**parts):
    return {**IDENTITY, **parts}


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (changed(seed=8), "its seed is 7, the recipe's is 8"),
        (changed(data="d1"), "its data is d0, the recipe's is d1"),
        (
            changed(model={"n_layer": 1, "n_embd": 16}),
            "its model.n_embd is 8, the recipe's is 16",
        ),
        (
            changed(model={"n_layer": 1, "n_embd": 8, "new": 1}),
            "its model.new is None, the recipe's is 1",
        ),
        (
            changed(tokenizer={"name": "gpt2", "hash": "abc"}),
            "its tokenizer.name is bytes, the recipe's is gpt2",
        ),
        (changed(more="x"), "its more is None, the recipe's is x"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(begun, tmp_path, identity, words):
    found = save(begun, tmp_path)
    state().check(found)
    with pytest.raises(CheckpointError, match=words) as caught:
        state(identity=identity).check(found)
    assert str(found.folder) in str(caught.value)


def test_weights_of_another_shape_are_refused(begun, tmp_path):
    with pytest.raises(CheckpointError, match="not this model's weights"):
        state(n_embd=16).take_up(save(begun, tmp_path))
