"""Exports with their cards, as the command writes them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab import cli
from gptlab.formats.huggingface.write import export
from gptlab.loading import load


def told(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_an_export_has_a_card_whose_lines_of_python_run(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert cli.main(["export", str(finished_run), str(out), "--licence", "apache-2.0"]) == 0
    assert {"README.md", "loss.png", "model.safetensors"} <= {file.name for file in out.iterdir()}
    assert "license: apache-2.0" in told(out)
    assert "trained with gptlab on 3.072k tokens" in told(out)
    assert 'from_pretrained("./mine")' in told(out)
    (lines,) = re.findall(r"```python\n(.*?)```", told(out), re.DOTALL)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(lines, {})
    assert capsys.readouterr().out.startswith("Once upon a time")


def test_the_card_of_a_class_of_our_own_says_so(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train(tmp_path / "run", {"model": {"mlp": "swiglu"}, "train": {"steps": 2}, "eval": {"tasks": []}})
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "mine")]) == 0
    assert "trust_remote_code=True" in told(tmp_path / "mine")
    assert "`GPTLabForCausalLM`" in told(tmp_path / "mine")


def test_a_card_is_written_anew_unless_somebody_changed_it(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(finished_run), str(tmp_path / "mine"), "--no-verify"]
    assert cli.main(words) == 0
    first = told(tmp_path / "mine")
    assert cli.main([*words, "--licence", "mit"]) == 0
    assert told(tmp_path / "mine") != first
    (tmp_path / "mine" / "README.md").write_text("my own words")
    assert cli.main(words) == 1
    assert "somebody changed its README.md" in capsys.readouterr().err
    assert told(tmp_path / "mine") == "my own words"


def test_an_export_of_an_export_keeps_its_card(finished_run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(finished_run), str(tmp_path / "one"), "--no-verify"]) == 0
    assert cli.main(["export", str(tmp_path / "one"), str(tmp_path / "two"), "--no-verify"]) == 0
    assert told(tmp_path / "two") == told(tmp_path / "one").replace(
        'pretrained("./one"', 'pretrained("./two"'
    )
    for name in ("model.safetensors", "loss.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_somebodys_folder_tells_only_of_its_weights(finished_run: Path, tmp_path: Path) -> None:
    assert cli.main(["export", str(finished_run), str(tmp_path / "one"), "--no-verify"]) == 0
    config = tmp_path / "one" / "config.json"
    keys = json.loads(config.read_text())
    del keys["gptlab"]
    config.write_text(json.dumps(keys))
    assert cli.main(["export", str(tmp_path / "one"), str(tmp_path / "two"), "--no-verify"]) == 0
    assert "from a folder of weights; how it was trained is unknown" in told(tmp_path / "two")


def test_a_folder_without_a_card_becomes_one_with(finished_run: Path, tmp_path: Path) -> None:
    network, tokenizer = load(finished_run, "cpu")
    export(network, tokenizer, tmp_path / "mine", verify=False)
    assert "card" not in json.loads((tmp_path / "mine" / "config.json").read_text())["gptlab"]
    assert cli.main(["export", str(finished_run), str(tmp_path / "mine"), "--no-verify"]) == 0
    assert told(tmp_path / "mine")


@pytest.fixture
def continued(tiny_recipe: Path, tmp_path: Path, torch_settings: None) -> Path:
    """A run of 8 steps that was then asked for four more at half the learning rate."""
    words = ["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--eval.tasks", "--train.steps"]
    assert cli.main([*words, "8"]) == 0
    assert cli.main([*words, "12", "--optim.lr", "0.005", "--train.grad-clip", "None"]) == 0
    return tmp_path / "run"


def test_a_card_tells_each_setting_with_its_step(continued: Path, tmp_path: Path) -> None:
    def card(step: int) -> str:
        model, out = continued / "checkpoints" / f"step_{step:08d}", tmp_path / f"at_{step}"
        assert cli.main(["export", str(model), str(out), "--no-verify"]) == 0
        return told(out)

    late, early = card(12), card(8)
    assert "| highest learning rate | 0.01 |" in late
    (line,) = re.findall(r"\| changed on the way \| (.*) \|", late)
    assert set(line.split("; ")) == {
        "optim.lr 0.01, from step 8 on 0.005",
        "train.steps 8, from step 8 on 12",
        "train.grad_clip 1.0, from step 8 on none",
    }
    assert "\nlr = 0.005\n" in late
    # None of the change applies to the checkpoint before it.
    assert "changed on the way" not in early
    assert "| steps | 8 of 8 |" in early
    recipes = [re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0] for text in (early, late)]
    lines = [set(recipe.splitlines()) for recipe in recipes]
    assert lines[0] - lines[1] == {"lr = 0.01", "steps = 8", "grad_clip = 1.0"}
    assert lines[1] - lines[0] == {"lr = 0.005", "steps = 12", 'grad_clip = "none"'}


def test_a_rate_that_was_never_reached_is_not_told(
    tiny_recipe: Path, tmp_path: Path, torch_settings: None
) -> None:
    words = ["train", str(tiny_recipe), "--out", str(tmp_path / "run"), "--eval.tasks", "--train.steps", "4"]
    assert cli.main([*words, "--schedule.warmup-steps", "4", "--optim.lr", "0.01"]) == 0
    assert (
        cli.main([*words, "--schedule.warmup-steps", "4", "--optim.lr", "0.5"]) == 0
    )  # which is done already
    words = ["export", str(tmp_path / "run" / "checkpoints" / "step_00000004"), str(tmp_path / "out")]
    # As somebody's first three steps of a longer warm-up: the last row is taken away.
    metrics = tmp_path / "run" / "metrics.jsonl"
    rows = [row for row in metrics.read_text().splitlines() if '"kind": "step", "step": 4,' not in row]
    metrics.write_text("".join(f"{row}\n" for row in rows))
    assert cli.main([*words, "--no-verify"]) == 0
    assert "| highest learning rate | 0.0075 |" in told(tmp_path / "out")
    assert "0.5" not in told(tmp_path / "out")


def test_a_card_has_no_path(continued: Path, tmp_path: Path) -> None:
    metrics = continued / "metrics.jsonl"
    moved = {"data.path": ["/home/me/data/old", "/home/me/data/new"]}
    moved |= {"eval.hellaswag_file": [None, "/home/me/items.jsonl"]}
    moved |= {"data.train": [[{"path": "/home/me/a", "weight": 1.0}], []]}
    metrics.write_text(
        metrics.read_text().replace('"changed": {', f'"changed": {{{json.dumps(moved)[1:-1]}, ', 1)
    )
    assert cli.main(["export", str(continued / "checkpoints" / "step_00000012"), str(tmp_path / "out")]) == 0
    assert "data.path old, from step 8 on new" in told(tmp_path / "out")
    assert "eval.hellaswag_file none, from step 8 on items.jsonl" in told(tmp_path / "out")
    assert "/home/me" not in told(tmp_path / "out")
