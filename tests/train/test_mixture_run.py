"""Runs on a mixture: the same draws after an interruption and by any number of processes, each set evaluated."""

import hashlib
import json
import shutil

import pytest
from real_runs import command, finish_together

from gptlab import recipe
from gptlab.actions import train as run
from gptlab.data.prepare.prepare import prepare
from gptlab.errors import CheckpointError
from gptlab.runs.metrics import read_rows


@pytest.fixture(scope="module")
def mixture(tiny_recipe, tiny_data, tmp_path_factory):
    """A recipe that mixes the tiny set and another, three to one."""
    folder = tmp_path_factory.mktemp("mixture")
    lines = (
        json.dumps({"text": f"{seed} words, then {seed + 1} words. " * 8}) + "\n" for seed in range(900, 940)
    )
    (folder / "numbers.jsonl").write_text("".join(lines))
    prepare(folder / "numbers.jsonl", folder / "numbers", tokenizer="bytes", val_tokens=2000, workers=1)
    parts = ((tiny_data, 3), (folder / "numbers", 1))
    overlay = folder / "mixture.toml"
    overlay.write_text(
        "".join(f'[[data.train]]\npath = "{path}"\nweight = {weight}\n' for path, weight in parts)
    )
    return [tiny_recipe, overlay]


def weights(out):
    newest = sorted((out / "checkpoints").iterdir())[-1]
    return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()


def losses(out):
    return [row["loss"] for row in read_rows(out / "metrics.jsonl") if row["kind"] == "step"]


def test_a_resumed_run_draws_as_one_that_was_left_alone(mixture, tmp_path, torch_settings):
    run.train(mixture, tmp_path / "whole", {})
    flags = {"train": {"save_every_steps": 5}}
    run.train(mixture, tmp_path / "broken", flags)
    for step in (6, 7, 8, 9, 10, 11, 12):  # as if killed after its checkpoint of step 5
        shutil.rmtree(tmp_path / "broken" / "checkpoints" / f"step_{step:08d}", ignore_errors=True)
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "step_00000008", ignore_errors=True)
    run.train(mixture, tmp_path / "broken", flags)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_the_sets_are_told_apart(mixture, tmp_path, torch_settings, capsys):
    facts = run.train(mixture, tmp_path / "run", {})
    sets = recipe.load(mixture).data.parts
    validations = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "val"]
    for row in validations:
        each = [row["sets"][part.path] for part in sets]
        assert row["loss"] == pytest.approx(0.75 * each[0] + 0.25 * each[1])
        assert row["bits_per_byte"] > 0
    assert validations[0]["loss"] > validations[-1]["loss"]
    said = capsys.readouterr().out
    assert f"data: 75 % from {sets[0].path}, " in said
    assert f"data: 25 % from {sets[1].path}, " in said
    assert list(facts["epochs"]) == [part.path for part in sets]
    assert all(0 < epochs < 1 for epochs in facts["epochs"].values())


def test_other_weights_are_another_run_and_another_place_is_not(mixture, tmp_path, torch_settings):
    first, overlay = mixture
    run.train(mixture, tmp_path / "run", {"train": {"steps": 4}})
    other = tmp_path / "other.toml"
    other.write_text(overlay.read_text().replace("weight = 1", "weight = 2"))
    with pytest.raises(CheckpointError, match="its data is"):
        run.train([first, other], tmp_path / "run", {})
    elsewhere = tmp_path / "elsewhere"
    path = recipe.load(mixture).data.parts[1].path
    shutil.copytree(path, elsewhere)
    other.write_text(overlay.read_text().replace(path, str(elsewhere)))
    assert run.train([first, other], tmp_path / "run", {})["status"] == "finished"


def test_a_set_that_is_seen_too_often_is_named(mixture, tmp_path, torch_settings, capsys):
    lines = mixture[1].read_text().replace("weight = 1", "weight = 40")
    (tmp_path / "often.toml").write_text(lines)
    run.train(
        [mixture[0], tmp_path / "often.toml"],
        tmp_path / "run",
        {"train": {"steps": 300}, "eval": {"tasks": ()}},
        max_hours=0,
    )
    said = capsys.readouterr().out
    assert f"warning: over 4 epochs of {recipe.load(mixture).data.parts[1].path}" in said


@pytest.mark.slow
def test_several_processes_draw_what_one_draws(mixture, tmp_path, torch_settings):
    flags = {"optim": {"lr": 1e-3}}
    run.train(mixture, tmp_path / "one", flags)
    finish_together(3, command(mixture, tmp_path / "three", "--optim.lr", "1e-3"))
    assert losses(tmp_path / "three") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)
