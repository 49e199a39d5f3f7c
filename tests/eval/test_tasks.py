import json
import random
from pathlib import Path
from typing import get_args

import pytest
import torch
from causal_models import Called
from small_files import task_files
from torch import Tensor

from gptlab.actions import contamination
from gptlab.data.load_tokenizer import load_tokenizer
from gptlab.data.manifest import Manifest, Shard, TokenizerRecord
from gptlab.data.shards import write_shard
from gptlab.data.tokenizer import Tokenizer
from gptlab.errors import DataError, TaskError
from gptlab.eval.chance import CHANCE
from gptlab.eval.hellaswag import PROTOCOLS
from gptlab.eval.score import StopEvaluation
from gptlab.eval.tasks import SUITES, TASKS, Inputs, Task, TaskName, build, expanded

CONTEXT = 128
VOCAB = 257


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("bytes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """Documents that repeat one word each, so that a context says what follows it."""
    folder = tmp_path_factory.mktemp("prepared")
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(30)]
    tokens = [token for word in words for token in (tokenizer.end_of_text, *tokenizer.encode(word * 40))]
    write_shard(folder / "val_000000.bin", tokens)
    shard = Shard(
        file="val_000000.bin", split="val", tokens=len(tokens), documents=30, bytes=0, text_bytes=0, sha256=""
    )
    record = TokenizerRecord(
        name="bytes", hash=tokenizer.hash, vocab_size=VOCAB, end_of_text=tokenizer.end_of_text
    )
    Manifest(tokenizer=record, source="", revision="", settings={}, validation="", shards=(shard,)).save(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hellaswag") / "items.jsonl"
    item = {"activity_label": "X", "ctx_a": "A man.", "ctx_b": "he", "ctx": "A man. he"}
    lines = [item | {"endings": ["a", "bb", "ccc", "d" * (5 + i)], "label": i % 4} for i in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_files(tmp_path_factory.mktemp("small"))


def copying(ids_BT: Tensor) -> Tensor:
    """A model that expects the tokens it has seen, whatever their order."""
    seen_BTV = torch.nn.functional.one_hot(ids_BT, VOCAB).cumsum(1)
    return (seen_BTV + 0.01).log()


def make(name: str, tokenizer: Tokenizer, folder: Path, file: Path, /, **change: object) -> Task:
    inputs = {"tokenizer": tokenizer, "context": CONTEXT, "data": folder, "file": file}
    return build(name, Inputs(**inputs | change))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_built_and_scored_alike(name, tokenizer, folder, file, small):
    task = make(name, tokenizer, folder, file, task_data=small)
    score = task.evaluate(Called(copying), device="cpu")
    metrics = task.metrics(score)
    written = ("perplexity", "perplexity_stderr") if name == "lambada_openai" else ()
    assert list(metrics) == [
        *("task", "protocol", "shots", "acc", "acc_norm", "stderr", "stderr_norm", "margin", "stderr_margin"),
        *("answer_bits_per_byte", "answer_bits_per_byte_stderr", *written),
        *("n", "truncated", "items_sha256", "official"),
    ]
    assert metrics["answer_bits_per_byte"] > 0
    assert (metrics["task"], metrics["shots"], metrics["n"]) == (name, 0, len(task.items))
    assert json.loads(json.dumps(metrics)) == metrics
    rows = score.samples()
    assert [row["i"] for row in rows] == list(range(len(task.items)))
    assert metrics["acc"] == sum(row["pred"] == row["label"] for row in rows) / len(rows)
    assert json.loads(json.dumps(rows[0])) == rows[0]
    assert list(rows[0]) == ["i", "label", "log_likelihoods", "pred", "pred_norm"]


@pytest.mark.parametrize("name", TASKS)
def test_items_are_known_by_what_they_say(name, tokenizer, folder, file, small):
    whole, part = (
        make(name, tokenizer, folder, file, task_data=small, limit=limit).items_sha256 for limit in (None, 3)
    )
    again = make(name, tokenizer, folder, file, task_data=small)
    assert whole == again.items_sha256 != part
    assert not again.official


def test_how_a_file_is_written_makes_no_other_items(tokenizer, folder, file, tmp_path):
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    spelled = [
        json.dumps({"split": "val", **line, "label": str(line["label"])}, indent=None) for line in lines
    ]
    other = tmp_path / "other.jsonl"
    other.write_text("\n\n".join(spelled))
    assert make("hellaswag", tokenizer, folder, other).items_sha256 == (
        make("hellaswag", tokenizer, folder, file).items_sha256
    )
    for field in ("ctx", "ctx_a", "ctx_b", "activity_label", "endings", "label"):
        changed = [dict(line) for line in lines]
        changed[2][field] = {"endings": list("abcd"), "label": 1}.get(field, "another")
        other.write_text("".join(json.dumps(line) + "\n" for line in changed))
        assert make("hellaswag", tokenizer, folder, other).items_sha256 != (
            make("hellaswag", tokenizer, folder, file).items_sha256
        ), field


@pytest.mark.parametrize("name", TASKS)
def test_limit_and_stop_hold_for_every_task(name, tokenizer, folder, file, small):
    task = make(name, tokenizer, folder, file, task_data=small, limit=3)
    assert len(task.items) == 3
    with pytest.raises(StopEvaluation):
        task.evaluate(Called(copying), device="cpu", stop=lambda: True)


def test_a_model_that_reads_its_context_solves_the_continuation_task(tokenizer, folder, file):
    task = make("continuation", tokenizer, folder, file)
    metrics = task.metrics(task.evaluate(Called(copying), device="cpu"))
    assert metrics["protocol"] == "continuation"
    assert metrics["acc"] == metrics["acc_norm"] > 0.9
    assert metrics["stderr"] == metrics["stderr_norm"]
    assert metrics["truncated"] == 0


def test_a_model_blind_to_its_context_is_at_chance_on_the_continuation_task(tokenizer, folder, file):
    def blind(ids_BT: Tensor) -> Tensor:
        return torch.linspace(0, 1, VOCAB).expand(*ids_BT.shape, VOCAB)

    task = make("continuation", tokenizer, folder, file)
    # All four choices are equally likely, so the first is taken, and labels go round.
    assert task.evaluate(Called(blind), device="cpu").acc == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(("name", "context"), [("continuation", 40), ("hellaswag", 10)])
def test_a_short_context_is_said(name, context, tokenizer, folder, file):
    task = make(name, tokenizer, folder, file, context=context, limit=1)
    metrics = task.metrics(task.evaluate(Called(copying), device="cpu"))
    assert metrics["truncated"] == metrics["n"]


@pytest.mark.parametrize("protocol", ["completion", "harness"])
def test_hellaswag_is_asked_as_the_protocol_says(protocol, tokenizer, folder, file):
    task = make("hellaswag", tokenizer, folder, file, protocol=protocol)
    assert task.protocol == protocol
    assert (
        tokenizer.decode(task.items[0].pairs[0][0])
        == {"completion": "A man. he", "harness": "X: A man. He"}[protocol]
    )
    assert task.items[0].lengths == {"completion": (2, 3, 4, 6), "harness": (1, 2, 3, 5)}[protocol]


def test_hellaswag_without_a_file_takes_the_downloaded_one(tokenizer, folder, file, monkeypatch):
    monkeypatch.setattr("gptlab.eval.hellaswag.downloaded", lambda split: file)
    assert len(make("hellaswag", tokenizer, folder, file, file=None).items) == 6


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("helaswag", {}, f"task helaswag: is not known; choose one of {', '.join(TASKS)}"),
        (
            "hellaswag",
            {"protocol": "harnes"},
            f"protocol harnes: is not known; choose one of {', '.join(PROTOCOLS)}",
        ),
        ("hellaswag", {"shots": 10}, "--shots 10: only HellaSwag's harness .*; use --protocol harness"),
        ("hellaswag", {"shots": -1}, "--shots -1: must be 0 or more"),
        ("hellaswag", {"limit": 0}, "limit = 0: must be at least 1"),
        ("continuation", {"data": None}, "task continuation: .*--data DIR"),
    ],
)
def test_what_cannot_be_built_is_refused(name, change, problem, tokenizer, folder, file):
    with pytest.raises(TaskError, match=problem):
        make(name, tokenizer, folder, file, **change)


def test_text_prepared_for_another_vocabulary_is_refused(folder, file, tokenizer, tmp_path):
    record = Manifest.load(folder)
    other = TokenizerRecord(name="bytes", hash="0" * 64, vocab_size=VOCAB, end_of_text=256)
    Manifest(tokenizer=other, source="", revision="", settings={}, validation="", shards=record.shards).save(
        tmp_path
    )
    with pytest.raises(
        DataError,
        match=rf"tokenizer is bytes \(000000000000\), the model reads bytes \({tokenizer.hash[:12]}\)",
    ):
        make("continuation", tokenizer, tmp_path, file)


def test_names_are_the_tables():
    assert get_args(TaskName) == (*TASKS, *SUITES)
    assert set(expanded(SUITES)) <= set(TASKS)


def test_every_task_has_its_chance_and_its_texts():
    assert set(TASKS) == set(contamination.ITEM_TEXTS)
    # A word guessed among all words is hardly ever right.
    assert set(TASKS) - set(CHANCE) == {"lambada_openai"}
