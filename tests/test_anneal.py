"""Annealing: a decay from a run's checkpoint, with its data, its optimizer and its rate."""

import json
from itertools import pairwise

import pytest

from gptlab.actions.anneal import annealed
from gptlab.actions.train import train as train_run
from gptlab.cli import main
from gptlab.errors import CheckpointError, ConfigError, TrainError
from gptlab.runs.metrics import read_rows

FLAGS = {"train": {"steps": 12, "save_every_steps": 3, "keep": 9}, "optim": {"lr": 1e-3}}


def steps(run):
    return [row for row in read_rows(run / "metrics.jsonl") if row["kind"] == "step"]


def checkpoint(run, step):
    return run / "checkpoints" / f"step_{step:08d}"


@pytest.fixture
def before(train, tmp_path):
    """A run of 12 steps with a checkpoint in the middle of its decay."""
    train(tmp_path / "before", FLAGS)
    return tmp_path / "before"


def test_the_rate_falls_in_a_line_from_where_it_stood(before, tmp_path):
    recipes, flags = annealed(checkpoint(before, 6), (), {}, steps=5)
    train_run(recipes, tmp_path / "low", flags)
    got = steps(tmp_path / "low")
    assert [row["step"] for row in got] == [7, 8, 9, 10, 11]
    assert got[0]["tokens"] == 7 * 256
    start = steps(before)[6]["lr"]
    expected = [start * (0.1 + 0.9 * (1 - done / 5)) for done in range(5)]
    assert [row["lr"] for row in got] == pytest.approx(expected)


def test_but_for_the_rate_it_is_the_run_going_on(train, tmp_path):
    """With the same samples and optimizer: if neither rate falls, both are bit-identical."""
    flat = {**FLAGS, "schedule": {"name": "constant", "warmup_steps": 2}}
    train(tmp_path / "whole", flat)
    recipes, flags = annealed(
        checkpoint(tmp_path / "whole", 6), (), {"schedule": {"final_fraction": 1.0}}, steps=6
    )
    train_run(recipes, tmp_path / "low", flags)
    assert [row["loss"] for row in steps(tmp_path / "low")] == [
        row["loss"] for row in steps(tmp_path / "whole")[6:]
    ]
    name = "model.safetensors"
    whole, low = (checkpoint(tmp_path / run, 12) / name for run in ("whole", "low"))
    assert low.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in (tmp_path / "whole" / "checkpoints").iterdir()) == [
        f"step_{step:08d}" for step in (3, 4, 6, 8, 9, 12)
    ]  # the other run lost nothing


def test_it_is_a_run_that_can_be_interrupted_and_repeated(before, tmp_path):
    recipes, flags = annealed(before, (), {}, steps=6)
    train_run(recipes, tmp_path / "low", flags)
    train_run([tmp_path / "low" / "config.toml"], tmp_path / "again", {})
    for folder in (tmp_path / "low" / "checkpoints").iterdir():
        if folder.name > "step_00000015":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    train_run([], tmp_path / "low", {})
    name = "model.safetensors"
    low, again = (checkpoint(tmp_path / run, 18) / name for run in ("low", "again"))
    assert low.read_bytes() == again.read_bytes()


def test_by_the_clock_on_the_command_line(before, tmp_path, torch_settings, capsys):
    out = tmp_path / "low"
    words = ["train", "--from", str(before), "--anneal-hours", str(2 / 3600), "--out", str(out)]
    assert main(words) == 0
    assert f"annealing {checkpoint(before, 12)} from step 12 on" in capsys.readouterr().out
    rates = [row["lr"] for row in steps(out)]
    assert rates[0] == pytest.approx(steps(before)[-1]["lr"], rel=0.5)
    assert all(later <= earlier for earlier, later in pairwise(rates))
    assert "plan" in [row.get("event") for row in read_rows(out / "metrics.jsonl")]
    state = json.loads((out / "latest").with_name("checkpoints").joinpath(
        (out / "latest").read_text().strip(), "state.json"
    ).read_text())  # fmt: skip
    assert state["budget"]["start"] == 12


def test_what_cannot_be_annealed_says_why(before, train, tmp_path):
    with pytest.raises(ConfigError, match="set the length of the decay"):
        annealed(before, (), {})
    with pytest.raises(ConfigError, match="set the length of the decay"):
        annealed(before, (), {}, hours=1.0, steps=1)
    with pytest.raises(CheckpointError, match="is neither a checkpoint nor a run with checkpoints"):
        annealed(tmp_path, (), {}, steps=1)
    recipes, flags = annealed(before, (), {"train": {"steps": 9}}, steps=3)
    with pytest.raises(TrainError, match=r"train.steps = 9: .* is already at step 12"):
        train_run(recipes, tmp_path / "low", flags)
    assert not (tmp_path / "low").exists()
    (before / "config.toml").unlink()
    with pytest.raises(ConfigError, match="has no config"):
        annealed(before, (), {}, steps=1)


def test_a_rate_of_zero_cannot_come_down(train, tmp_path):
    train(tmp_path / "done", {**FLAGS, "schedule": {"final_fraction": 0.0}})
    with pytest.raises(ConfigError, match="its learning rate is zero at step 12"):
        annealed(tmp_path / "done", (), {}, steps=1)


def test_hours_without_a_checkpoint_are_refused(tmp_path, capsys):
    assert main(["train", "--anneal-hours", "1", "--out", str(tmp_path / "low")]) == 1
    assert "name the checkpoint to anneal with --from" in capsys.readouterr().err
