"""A run folder records what happened in the run."""

import json

import pytest
import torch

from gptlab import cli, recipe
from gptlab.data.manifest import Manifest
from gptlab.errors import DataError
from gptlab.machine.world import World


def events(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "event"]


def kept(out):
    return recipe.load([out / "config.toml"]).optim.lr


def test_a_finished_runs_recipe_is_the_one_it_was_trained_with(tiny_recipe, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(["train", str(tiny_recipe), "--out", str(out)]) == 0
    before = (out / "config.toml").read_bytes()
    words = ["--optim.lr", "9e-1", "--schedule.name", "constant"]
    assert cli.main(["train", str(tiny_recipe), "--out", str(out), *words]) == 0
    said = capsys.readouterr().out
    assert "is finished, so nothing is trained with optim.lr = 0.9, schedule.name = constant" in said
    assert "changed since the run began" not in said
    assert (out / "config.toml").read_bytes() == before
    assert events(out)[-1]["changed"] == {}


def test_a_changed_recipe_is_kept_with_the_first_step_under_it(train, tiny_recipe, tmp_path):
    out = tmp_path / "run"
    train(out, {"train": {"steps": 6}})
    # Out of time at once, so no step is done.
    assert train(out, {"optim": {"lr": 5e-3}}, max_hours=0)["status"] == "interrupted"
    assert kept(out) == 1e-2
    assert train(out, {"optim": {"lr": 5e-3}})["step"] == 12
    assert kept(out) == 5e-3
    changed = [row["changed"].get("optim.lr") for row in events(out) if row["event"] == "resume"]
    assert changed == [[1e-2, 5e-3], [1e-2, 5e-3]]


def test_a_folder_of_data_that_is_not_there_is_called_that(tiny_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    assert cli.main(["train", str(tiny_recipe), "--data.path", "data/none", "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert f"data/none: there is no such folder in {tmp_path}; make it with" in said
    (tmp_path / "data" / "none").mkdir(parents=True)
    assert cli.main(["train", str(tiny_recipe), "--data.path", "data/none", "--out", str(out)]) == 1
    assert "has no manifest.json, so it is not a finished data folder" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(DataError, match="/none: there is no such folder; make it"):
        Manifest.load("/none")


def test_a_run_keeps_the_format_that_auto_chose_at_its_beginning(train, tiny_recipe, tmp_path, monkeypatch):
    from gptlab.actions import train as action

    out = tmp_path / "run"
    chosen = iter(["bfloat16", "float32", "float32"])
    monkeypatch.setattr(action, "choose_dtype", lambda name, device: next(chosen))
    train(out, {"train": {"steps": 4, "dtype": "auto"}})
    assert next(chosen) == "float32"
    environment = json.loads((out / "environment.json").read_text())
    assert environment["dtype"] == "bfloat16"
    assert 'dtype = "auto"' in (out / "config.toml").read_text()
    config = recipe.load([out / "config.toml"])
    world = World(0, 1, torch.device("cpu"))
    assert action._dtype(config, out, world) == "bfloat16"
    (out / "environment.json").write_text(json.dumps(environment | {"device": "another"}))
    assert action._dtype(config, out, world) == "float32"
