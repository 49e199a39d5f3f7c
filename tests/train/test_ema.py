"""The EMA of the weights: against a plain loop over a run's checkpoints, and as the model that others see."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import gptlab
from gptlab import cli
from gptlab.runs import checkpoint
from gptlab.train.config import TrainConfig

EVERY = {"average": 0.8, "save_every_steps": 1, "keep": 99}


@pytest.fixture(scope="module")
def averaged(tiny_recipe, tmp_path_factory):
    """A run with an EMA, and a checkpoint at every step."""
    out = tmp_path_factory.mktemp("averaged") / "run"
    flags = ["--train.average", "0.8", "--train.save-every-steps", "1", "--train.keep", "99"]
    flags += ["--eval.val-tokens", "1000000"]  # all
    assert cli.main(["train", str(tiny_recipe), *flags, "--out", str(out)]) == 0
    return out


def files(out, step):
    folder = checkpoint.folder_of(out, step)
    return load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")


def rows(out, kind):
    found = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["kind"] == kind]


def test_it_is_the_ema_of_the_weights_that_were_trained(averaged):
    ema = None
    for step in range(1, 13):
        model, optimizer = files(averaged, step)
        weights = {name: optimizer[f"{name}/trained"].double() for name in model}
        if ema is None:
            ema = {name: tensor.double() for name, tensor in model.items()}
            continue
        share = 1 - min(0.8, (1 + step) / (10 + step))
        ema = {name: old + share * (weights[name] - old) for name, old in ema.items()}
        for name, expected in ema.items():
            assert torch.allclose(model[name].double(), expected, atol=1e-6), (step, name)
    assert not torch.equal(model["embed.weight"], optimizer["embed.weight/trained"])


def test_training_does_not_notice_it(averaged, finished_run):
    assert [row["loss"] for row in rows(averaged, "step")] == [
        row["loss"] for row in rows(finished_run, "step")
    ]
    plain = load_file(checkpoint.folder_of(finished_run, 12) / "model.safetensors")
    _, optimizer = files(averaged, 12)
    assert all(torch.equal(optimizer[f"{name}/trained"], tensor) for name, tensor in plain.items())


def test_what_is_measured_saved_and_loaded_is_the_ema(averaged, tiny_data, tmp_path):
    last = rows(averaged, "val")[-1]
    facts = tmp_path / "facts.json"
    words = ["eval", str(averaged), "--task", "loss", "--data", str(tiny_data), "--json", str(facts)]
    assert cli.main(words) == 0
    assert json.loads(facts.read_text())["loss"] == pytest.approx(last["loss"], abs=1e-5)
    model, _ = files(averaged, 12)
    network, _ = gptlab.load(averaged)
    assert all(torch.equal(tensor, model[name]) for name, tensor in network.state_dict().items())


def test_a_run_continues_bit_for_bit(averaged, train, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(averaged, out)
    for later in range(8, 13):
        shutil.rmtree(checkpoint.folder_of(out, later))
    train(out, {"train": EVERY})
    for step in (8, 12):
        for got, expected in zip(files(out, step), files(averaged, step), strict=True):
            assert got.keys() == expected.keys()
            assert all(torch.equal(got[name], tensor) for name, tensor in expected.items())


def test_it_may_begin_and_end_along_the_way(averaged, finished_run, train, tmp_path):
    ends, begins = tmp_path / "ends", tmp_path / "begins"
    shutil.copytree(averaged, ends)
    train(ends, {"train": {"steps": 13}})
    shutil.copytree(finished_run, begins)
    train(begins, {"train": {"steps": 13, "average": 0.8}})
    (plain, optimizer), (ema, other) = files(ends, 13), files(begins, 13)
    assert not any(name.endswith("/trained") for name in optimizer)
    assert all(torch.equal(other[f"{name}/trained"], tensor) for name, tensor in plain.items())
    before = load_file(checkpoint.folder_of(finished_run, 12) / "model.safetensors")
    share = 1 - 14 / 23
    for name, tensor in ema.items():
        assert torch.allclose(tensor, before[name] + share * (plain[name] - before[name]), atol=1e-6), name


def test_a_run_that_starts_from_a_model_has_that_model_as_its_first_ema(finished_run, train, tmp_path):
    train(
        tmp_path / "run",
        {"train": {**EVERY, "steps": 1, "init_from": str(finished_run)}, "schedule": {"warmup_steps": 0}},
    )
    before, (ema, optimizer) = (
        load_file(checkpoint.folder_of(finished_run, 12) / "model.safetensors"),
        files(tmp_path / "run", 1),
    )
    share = 1 - 2 / 11
    for name, tensor in ema.items():
        expected = before[name] + share * (optimizer[f"{name}/trained"] - before[name])
        assert torch.allclose(tensor, expected, atol=1e-6), name


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
def test_a_decay_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=rf"average = {value}: must lie between 0 and 1"):
        TrainConfig(average=value)
