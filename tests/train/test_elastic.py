"""Runs that continue with other processes, batches or devices: the same samples, the same losses."""

import json
import shutil

import pytest
from real_runs import command, finish, finish_together, rows

from gptlab.train.micro_batches import MicroBatches

STEPS = 80
SAVED = {"steps": STEPS, "save_every_steps": 20, "keep": 9}
FLAGS = {"train": SAVED, "optim": {"lr": 1e-3}, "eval": {"every_steps": STEPS, "tasks": ()}}
WORDS = (
    *("--train.steps", STEPS, "--train.save-every-steps", 20, "--train.keep", 9, "--optim.lr", "1e-3"),
    *("--eval.every-steps", STEPS, "--eval.tasks"),
)


def stopped(run, step, out):
    """Copy a run as if it had ended after a step."""
    shutil.copytree(run, out)
    for folder in (out / "checkpoints").iterdir():
        if folder.name > f"step_{step:08d}":
            shutil.rmtree(folder)
    return out


def losses(out, after):
    found = {row["step"]: row["loss"] for row in rows(out, "step") if after < row["step"] <= after + 20}
    assert list(found) == list(range(after + 1, after + 21))
    return list(found.values())


def agree(continued, left_alone, after, **tolerance):
    assert losses(continued, after) == pytest.approx(
        losses(left_alone, after), **(tolerance or {"rel": 1e-5})
    )
    state, other = (
        json.loads((out / "checkpoints" / f"step_{after + 20:08d}" / "state.json").read_text())
        for out in (continued, left_alone)
    )
    assert [state[key] for key in ("tokens", "sample", "skip", "data")] == [
        other[key] for key in ("tokens", "sample", "skip", "data")
    ]


@pytest.fixture(scope="module")
def one(tiny_recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("elastic") / "one"
    finish(command(tiny_recipe, out, *WORDS))
    return out


@pytest.mark.parametrize("micro_batch", [1, 3, "auto"])
def test_another_micro_batch(one, train, tmp_path, micro_batch):
    out = stopped(one, 20, tmp_path / "run")
    train(out, {**FLAGS, "train": {**SAVED, "micro_batch": micro_batch}})
    agree(out, one, 20)


def test_the_samples_are_asked_for_in_the_same_order(one, train, tmp_path, monkeypatch):
    asked, read = {1: [], 8: []}, MicroBatches._read

    def noted(self, first, size):
        asked[self.sequences] += range(first, first + size)
        return read(self, first, size)

    monkeypatch.setattr(MicroBatches, "_read", noted)
    for micro_batch in asked:
        train(
            stopped(one, 60, tmp_path / str(micro_batch)),
            {**FLAGS, "train": {**SAVED, "micro_batch": micro_batch}},
        )
        del asked[micro_batch][20 * 8 :]  # read ahead of the end
        assert asked[micro_batch] == list(range(60 * 8, 80 * 8))


def test_another_machine_with_its_own_number_format_and_path(train, tiny_data, tmp_path):
    """Begun in float16 on a notebook's GPU, continued in bfloat16 on a cluster that keeps its data elsewhere."""
    here, there = (shutil.copytree(tiny_data, tmp_path / name) for name in ("drive", "scratch"))

    def flags(dtype, path):
        kept = {"steps": 30, "save_every_steps": 10, "keep": 9, "dtype": dtype}
        return {"train": kept, "data": {"path": str(path)}, "eval": {"tasks": ()}}

    train(tmp_path / "alone", flags("float16", here))
    out = stopped(tmp_path / "alone", 10, tmp_path / "moved")
    shutil.rmtree(here)
    train(out, flags("bfloat16", there))
    agree(out, tmp_path / "alone", 10, abs=0.02)
    [resumed] = [row for row in rows(out, "event") if row["event"] == "resume" and row["step"] == 10]
    assert resumed["changed"] == {
        "data.path": [str(here), str(there)],
        "train.dtype": ["float16", "bfloat16"],
    }


@pytest.mark.slow
def test_other_numbers_of_processes(one, tiny_recipe, train, tmp_path):
    """From 1 to 2 to 3, whose shares of the 8 sequences are unequal, and from 3 back to 1."""
    before = one
    for after, processes in ((20, 2), (40, 3), (60, 1)):
        out = stopped(before, after, tmp_path / str(processes))
        if processes == 1:
            train(out, FLAGS)
        else:
            finish_together(processes, command(tiny_recipe, out, *WORDS))
        resumed = [row for row in rows(out, "event") if row["event"] == "resume"][-1]
        assert (resumed["step"], resumed["processes"]) == (after, processes)
        agree(out, before, after)
        before = out


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "second"), [("cpu", "cuda"), ("cuda", "cpu")])
def test_another_device(train, tmp_path, first, second):
    train(tmp_path / "whole", {**FLAGS, "train": {**SAVED, "device": first}})
    out = stopped(tmp_path / "whole", 20, tmp_path / "run")
    train(out, {**FLAGS, "train": {**SAVED, "device": second}})
    agree(out, tmp_path / "whole", 20)
