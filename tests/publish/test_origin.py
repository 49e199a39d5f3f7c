"""What a model's files say about it, and what they do not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gptlab.data.manifest import Manifest
from gptlab.publish.origin import DataSet, Origin, find_origin, last_part

Train = Callable[..., dict[str, Any]]


def found(run: Path, step: int = 12) -> Origin:
    state = json.loads((run / "checkpoints" / f"step_{step:08d}" / "state.json").read_text())
    return find_origin(run, state)


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def test_a_checkpoint_has_its_own_rows_and_no_later_ones(run: Path) -> None:
    at = found(run, 8)
    assert (at.step, at.state["tokens"]) == (8, 8 * 256)
    assert [row["step"] for row in at.rows("val")] == [8]
    assert [row["step"] for row in at.steps] == list(range(1, 9))
    assert at.processes == 1


def test_the_data_of_a_run(run: Path, tiny_data: Path, train: Train, tmp_path: Path) -> None:
    data = found(run).data
    assert data is not None
    assert [(each.manifest, each.share) for each in data] == [(Manifest.load(tiny_data), 1.0)]
    other = tmp_path / "other"
    other.symlink_to(tiny_data)
    train(
        tmp_path / "mixed",
        {"data": {"train": [{"path": str(tiny_data), "weight": 3.0}, {"path": str(other)}]}},
    )
    mixed = found(tmp_path / "mixed").data
    assert mixed is not None
    assert [each.share for each in mixed] == [0.75, 0.25]


def test_data_that_changed_or_went_is_not_told(run: Path, tmp_path: Path) -> None:
    recipe = run / "config.toml"
    text = recipe.read_text()
    assert found(run).data is not None
    state = json.loads((run / "checkpoints" / "step_00000012" / "state.json").read_text())
    assert find_origin(run, state | {"data": "another"}).data is None
    recipe.write_text(text.replace("/bytes", "/gone"))
    assert found(run).data is None


@pytest.mark.parametrize(
    "train",
    ['["a"]', "[{ weight = 1.0 }]", '[{ path = "a", weight = "b" }]', '[{ path = "a", weight = 0 }]', "[1]"],
)
def test_data_that_no_recipe_names_is_not_told(run: Path, train: str) -> None:
    recipe = run / "config.toml"
    recipe.write_text(recipe.read_text().replace("[data]", f"[data]\ntrain = {train}"))
    assert found(run).data is None


def test_a_recipe_tells_no_path(run: Path, tiny_data: Path) -> None:
    recipe = found(run).recipe
    assert recipe is not None
    assert 'path = "bytes"' in recipe
    assert str(tiny_data.parent) not in recipe
    assert 'dtype = "float32"' in recipe


def test_a_recipe_of_another_version_is_not_told(run: Path) -> None:
    file = run / "config.toml"
    file.write_text(file.read_text().replace("[optim]", "[optim]\nspeed = 1"))
    assert found(run).recipe is None


def test_processes_that_changed_are_not_told(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    later = [line for line in metrics.read_text().splitlines() if json.loads(line)["step"] > 8]
    with metrics.open("a") as file:
        file.write('{"kind": "event", "event": "resume", "step": 12, "processes": 2}\n')
    assert found(run).processes == 1, "no step was done by two"
    with metrics.open("a") as file:
        file.write('{"kind": "event", "event": "resume", "step": 8, "processes": 2}\n')
        file.write("".join(f"{line}\n" for line in later))
    assert found(run).processes is None
    assert found(run, 8).processes == 1
    assert found(run).changes == ["processes 1, from step 8 on 2"]


def test_a_checkpoint_alone_and_a_run_without_a_recipe(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    (run / "checkpoints" / "step_00000012").rename(alone)
    at = find_origin(alone, json.loads((alone / "state.json").read_text()))
    assert (at.step, at.run, at.recipe, at.data) == (12, None, None, None)
    assert (at.steps, at.rows("eval"), at.processes) == ([], [], None)
    for name in ("config.toml", "environment.json"):
        (run / name).unlink()
    at = found(run, 8)
    assert (at.recipe, at.data, at.processes) == (None, None, None)


@pytest.mark.parametrize(
    ("source", "revision", "hub", "shown"),
    [
        ("fineweb", "hf:HuggingFaceFW/fineweb@" + "c" * 40 + ":sample-10BT", "HuggingFaceFW/fineweb", None),
        ("hf:me/shards:train_*", "c" * 40, "me/shards", None),
        ("/home/me/my corpus", "0123", None, "my corpus"),
        ("C:\\texts\\corpus", "0123", None, "corpus"),
        ("python-docs", "CPython 3.11.7", None, "python-docs"),
    ],
)
def test_sources(tiny_data: Path, source: str, revision: str, hub: str | None, shown: str | None) -> None:
    each = DataSet(replace(Manifest.load(tiny_data), source=source, revision=revision), 1.0)
    assert each.hub_name == hub
    assert each.source == (shown or hub)


def test_last_parts() -> None:
    assert [last_part(path) for path in ("a/b", "a\\b", "b", "/")] == ["b", "b", "b", "/"]
