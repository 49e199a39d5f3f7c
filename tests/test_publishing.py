"""Exports with their cards, by the command."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptlab import cli
from gptlab.publish.huggingface import export
from gptlab.saved import load


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
    assert "its README.md was changed since it was written" in capsys.readouterr().err
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
