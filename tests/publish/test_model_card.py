"""Cards against the files that they tell of, and as the hub's own library reads them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from gptlab.data.manifest import Manifest
from gptlab.data.tokenizer import Bytes
from gptlab.publish.card import Card, card_files
from gptlab.publish.origin import DataSet, Origin, find_origin
from gptlab.recipe import load
from gptlab.runs.history import read_metrics

HELLASWAG = {
    "kind": "eval",
    "step": 12,
    "tokens": 3072,
    "task": "hellaswag",
    "protocol": "harness",
    "shots": 10,
    "acc": 0.2892,
    "acc_norm": 0.3114,
    "stderr": 0.0045,
    "stderr_norm": 0.0046,
    "n": 10042,
    "items_sha256": "3f2a" * 16,
    "official": True,
}


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished_run, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(HELLASWAG) + "\n")
    return tmp_path / "run"


def card_of(run: Path, step: int = 12, **other: Any) -> Card:
    state = json.loads((run / "checkpoints" / f"step_{step:08d}" / "state.json").read_text())
    model = replace(load([run / "config.toml"]).model, vocab_size=257)
    about = {"class_name": "GPT2LMHeadModel", "remote_code": False, "address": "me/mine"}
    return Card(origin=find_origin(run, state), model=model, tokenizer=Bytes(), **(about | other))


def written(card: Card) -> ModelCard:
    return ModelCard(card_files(card)["README.md"].decode())


def test_what_stands_in_the_files_of_a_run(run: Path, tiny_data: Path) -> None:
    card = written(card_of(run, licence="mit"))
    rows = read_metrics(run)
    parameters = json.loads((run / "environment.json").read_text())["parameters"]
    (val,) = (row for row in rows["val"] if row["step"] == 12)
    score = next(row for row in rows["eval"] if row["step"] == 12 and row["task"] == "continuation")
    manifest = Manifest.load(tiny_data).summary()
    for told in (
        "# mine\n",
        f"| parameters | {parameters:,} (",
        "| steps | 12 of 12 |",
        "| tokens | 3,072 |",
        "| highest learning rate | 0.01 |",
        f"| validation loss | {val['loss']:.4f} nats per token |",
        f"| to train on | {manifest['train']['tokens']:,} tokens of {manifest['train']['documents']} documents |",
        "| source | `english.jsonl` |",
        f"| continuation | continuation | 0 | 7, items {score['items_sha256'][:8]} | 25 | {100 * score['acc']:.2f} "
        "\N{PLUS-MINUS SIGN} ",
        "| hellaswag | harness | 10 | 10,042, official items | 25 | 28.92 \N{PLUS-MINUS SIGN} 0.45 | "
        "31.14 \N{PLUS-MINUS SIGN} 0.46 |",
        "](loss.png)",
        "## Licence\n\nmit",
    ):
        assert told in card.content
    assert card_files(card_of(run))["loss.png"].startswith(b"\x89PNG")
    assert str(run.parent) not in card.content
    assert json.loads((run / "environment.json").read_text())["host"] not in card.content


def test_the_head_as_the_hub_reads_it(run: Path) -> None:
    data = written(card_of(run, licence="mit")).data
    assert data.license == "mit"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.get("datasets") is None
    first, second = data.eval_results  # the other task has no place on the hub
    assert (first.metric_type, first.metric_value, first.metric_args) == ("acc", 0.2892, {"stderr": 0.0045})
    assert (second.metric_type, second.metric_value) == ("acc_norm", 0.3114)
    assert first.dataset_type == "Rowan/hellaswag"
    assert first.dataset_name == "HellaSwag, harness protocol, 10-shot, 10,042 items"
    assert first.dataset_args == {key: HELLASWAG[key] for key in ("protocol", "shots", "n", "items_sha256")}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"official": False}, "10,042, items 3f2a3f2a"),
        ({"official": False, "data": "mi|ne.jsonl"}, r"10,042, items 3f2a3f2a of mi\|ne.jsonl"),
        (
            {"official": None, "items_sha256": None},
            "10,042, items not on record",
        ),  # of before there was a hash
        ({"items_sha256": None}, "10,042, items not on record"),
        ({"task": "piqa", "protocol": "lm-eval"}, "10,042, official items"),
    ],
)
def test_scores_on_somebodys_items_are_not_in_the_hubs_index(
    run: Path, change: dict[str, Any], told: str
) -> None:
    """However many they are: only what was checked against the published file is called HellaSwag's own."""
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:-1]) + json.dumps(HELLASWAG | change) + "\n")
    card = written(card_of(run))
    assert card.data.eval_results is None
    if "task" not in change:
        assert f"| hellaswag | harness | 10 | {told} |" in card.content


def test_a_score_near_chance_says_so(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(HELLASWAG | {"n": 1000, "acc": 0.26, "acc_norm": 0.29}) + "\n")
    (line,) = (line for line in written(card_of(run)).content.splitlines() if "| 1,000, " in line)
    assert "| 26.00 \N{PLUS-MINUS SIGN} 0.45, not shown to be above chance (25 %) | 29.00 " in line
    assert line.count("not shown") == 1


def test_scores_that_are_no_accuracy_are_told(run: Path) -> None:
    shared = {"kind": "eval", "step": 12, "protocol": "lm-eval", "lm_eval": "0.4.13", "shots": 0, "n": 9}
    lambada = {"acc": 0.25, "stderr": 0.125, "perplexity": 40.126, "perplexity_stderr": 1.5, "version": 1.0}
    lambada |= {"answer_bits_per_byte": 1.25, "answer_bits_per_byte_stderr": 0.02}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(shared | {"task": "lambada_openai", "by": "gptlab eval"} | lambada) + "\n")
        file.write(json.dumps(shared | {"task": "wikitext", "word_perplexity": 37.5}) + "\n")
    card = written(card_of(run))
    apart, none = "\N{PLUS-MINUS SIGN}", "\N{EN DASH}"
    for told in (
        "| accuracy, % | normalised by length, % | right answer, bits per byte | other results |\n",
        "| lambada_openai | lm-eval 0.4.13 | 0 | 9, items not on record | unknown | ",
        f"| 25.00 {apart} 12.50 | {none} | 1.25 {apart} 0.02 | perplexity 40.13 {apart} 1.5 |\n",
        f"| wikitext | lm-eval 0.4.13 | 0 | 9, items not on record | unknown | {none} | {none} | {none} | "
        "word_perplexity 37.5 |\n",
        f"| 31.14 {apart} 0.46 | {none} | {none} |\n",
        "\nBits per byte of the right answer are its negative log2-likelihood",
        "in training or later by `gptlab eval`",
    ):
        assert told in card.content


def test_data_sets_of_the_hub_are_linked(run: Path, tiny_data: Path) -> None:
    card = card_of(run)
    manifest = replace(Manifest.load(tiny_data), revision=f"hf:HuggingFaceFW/fineweb@{'c' * 40}:sample-10BT")
    at = replace(card.origin, data=[DataSet(manifest, 0.75), DataSet(Manifest.load(tiny_data), 0.25)])
    told = written(replace(card, origin=at))
    assert told.data.datasets == ["HuggingFaceFW/fineweb"]
    assert "[HuggingFaceFW/fineweb](https://huggingface.co/datasets/HuggingFaceFW/fineweb)" in told.content
    assert "| share of the training samples | 0.75 |" in told.content


def test_hours_energy_and_cost(run: Path) -> None:
    environment = run / "environment.json"
    said = json.loads(environment.read_text()) | {"device": "NVIDIA A100-SXM4-80GB", "processes": 8}
    environment.write_text(json.dumps(said))
    steps = (row for row in read_metrics(run)["step"])
    hours = sum(256 / row["tokens_per_s"] for row in steps) / 3600
    text = written(card_of(run)).content
    assert "| hardware | 8 x NVIDIA A100-SXM4-80GB |" in text
    assert f"| energy | about {8 * hours * 0.4:.2g} kWh (estimated) |" in text
    assert f"| cost | about {8 * hours * 1.5:.2g} US dollars (estimated) |" in text
    assert "assuming 400 W for each GPU, its power limit, at all times" in text


def test_what_is_not_known_is_not_told(run: Path) -> None:
    card = card_of(run)
    bare = replace(card, origin=Origin({"step": 12, "tokens": 3072}, None, None, None))
    files = card_files(bare)
    assert list(files) == ["README.md"]
    text = files["README.md"].decode()
    assert "trained with gptlab on 3.072k tokens" in text
    assert "## Data\n\nUnknown.\n" in text
    assert "## Licence\n\nNot stated.\n" in text
    assert not re.search(r"## Scores|## Time|loss\.png|optimizer|license:", text)
    assert ModelCard(text).data.eval_results is None
    unknown = replace(card, origin=Origin({}, None, None, None))
    text = card_files(unknown)["README.md"].decode()
    assert "from a folder of weights; how it was trained is unknown" in text
    assert "## Training" not in text
    state = {"step": 0, "tokens": 0, "imported": {"kind": "nanoGPT", "from": "/home/me/ckpt.pt"}}
    text = card_files(replace(card, origin=Origin(state, None, None, None)))["README.md"].decode()
    assert "imported from nanoGPT (`ckpt.pt`)" in text
    assert "## Training" not in text


def test_a_checkpoint_without_scores_has_none_of_another(run: Path) -> None:
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    metrics.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["kind"] != "eval"))
    assert "None were measured at this checkpoint." in written(card_of(run)).content


def test_a_card_is_the_same_every_time(run: Path) -> None:
    assert card_files(card_of(run)) == card_files(card_of(run))


def test_a_class_of_our_own_says_so(run: Path) -> None:
    text = written(card_of(run, class_name="GPTLabForCausalLM", remote_code=True)).content
    assert 'from_pretrained("me/mine", trust_remote_code=True)' in text
    assert "`modeling_gptlab.py`" in text
