"""Reading a model wants its weights, its state and its tokenizer; going on wants the optimizer, too."""

import json
import shutil

import pytest
import torch

import gptlab
from gptlab import cli
from gptlab import loading as saved
from gptlab.errors import CheckpointError
from gptlab.runs import checkpoint
from gptlab.sample import generate, sample_text


@pytest.fixture
def without_optimizer(finished_run, tmp_path):
    run = tmp_path / "copy"
    shutil.copytree(finished_run, run)
    for file in run.rglob("optimizer.safetensors"):
        file.unlink()
    return run


def refused(capsys, *words):
    assert cli.main(list(map(str, words))) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_a_model_is_read_without_its_optimizer(without_optimizer, tiny_data, tmp_path, capsys, train):
    run = without_optimizer
    assert cli.main(["sample", str(run), "--max-tokens", "3"]) == 0
    words = ["--task", "continuation", "--data", str(tiny_data), "--limit", "4"]
    assert cli.main(["eval", str(run), *words]) == 0
    assert cli.main(["export", str(run), str(tmp_path / "hf"), "--no-verify"]) == 0
    assert cli.main(["report", str(run), "--out", str(tmp_path / "report")]) == 0
    assert train(tmp_path / "new", {"train": {"init_from": str(run), "steps": 2}})["status"] == "finished"


def test_going_on_without_it_is_refused(without_optimizer, tiny_recipe, tmp_path, capsys):
    said = refused(capsys, "train", tiny_recipe, "--out", without_optimizer, "--train.steps", 20)
    assert "all 3 checkpoints are damaged" in said
    words = ["train", "--from", without_optimizer, "--anneal-steps", 3, "--out", tmp_path / "annealed"]
    assert "damaged" in refused(capsys, *words)
    assert not (tmp_path / "annealed").exists()


def test_what_is_read_is_still_held_against_its_hash(without_optimizer):
    folder = saved.find(without_optimizer).checkpoint
    weights = folder / checkpoint.MODEL
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(CheckpointError, match="its sha256 differs from the one"):
        gptlab.load(without_optimizer)


FILLED_UP = """
[model]
vocab_size = 320
[sample]
prompts = ["The", ""]
max_tokens = 40
temperature = 5.0
top_k = "none"
"""


@pytest.fixture(scope="module")
def filled_up(tiny_recipe, tmp_path_factory):
    """A run whose vocabulary has 63 ids that its tokenizer of bytes has not, with texts written from step 0 on."""
    out = tmp_path_factory.mktemp("filled") / "run"
    recipe = out.parent / "filled_up.toml"
    recipe.write_text(FILLED_UP)
    assert cli.main(["train", str(tiny_recipe), str(recipe), "--out", str(out), "--train.steps", "4"]) == 0
    return out


def test_ids_that_the_tokenizer_has_not_are_never_drawn(filled_up, tmp_path, capsys):
    rows = [json.loads(line) for line in (filled_up / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "sample"] == [0, 0, 4, 4]
    words = ["--max-tokens", "200", "--temperature", "50", "--samples", "4"]
    assert cli.main(["sample", str(filled_up), *words]) == 0
    assert cli.main(["export", str(filled_up), str(tmp_path / "hf"), "--no-verify"]) == 0
    for folder in (filled_up, tmp_path / "hf"):
        model, tokenizer = gptlab.load(folder)
        ids = model.generate([256], max_new_tokens=300, temperature=50.0, samples=3, seed=0)
        assert int(ids.max()) <= 256
        assert len(set(ids.flatten().tolist())) > 200
        tokenizer.decode(ids[0].tolist())
        assert sample_text(model, tokenizer, "a", max_tokens=50, temperature=50.0, samples=3)


def test_the_likeliest_of_all_is_none_of_them(filled_up):
    model, tokenizer = gptlab.load(filled_up)
    with torch.no_grad():
        model.embed.weight[300] = 100 * model.norm.weight + model.norm.bias  # the likeliest by far
    assert int(generate(model, [65, 66], max_tokens=5, temperature=0, unknown=[]).max()) == 300
    assert int(generate(model, [65, 66], max_tokens=5, temperature=0).max()) <= 256
    assert sample_text(model, tokenizer, "AB", max_tokens=5, temperature=0)


def test_gaps_of_a_vocabulary_count_as_well(finished_run):
    _, tokenizer = gptlab.load(finished_run)
    tokenizer.vocabulary[7] = b""
    assert tokenizer.unknown_below(259) == [7, 257, 258]
